"""When the decoder looks at the source, and where the context goes.

A wiring owns the decoder's recurrence. What does not depend on the recurrence, the products with the inputs, it
computes for all positions at once in `project`; `advance` is one step. `scan` is `advance` repeated, and a wiring
whose recurrence has no attention in it computes all positions at once instead.

Shapes: B sentences, Q queries, T target positions, E embedding, H decoder hidden, C memory features.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from nmt.config import schema
from nmt.config.registry import Registry
from nmt.kernels.select import Kernels
from nmt.kernels.tape import Tape, Term, Value
from nmt.model.attention import Attention, AttentionWeights, Encoded, Look, Prepared, Summary
from nmt.model.bridge import Bridge
from nmt.model.context import Translated
from nmt.model.readout import DeepOutput, Output, Readout
from nmt.model.stack import Factors


@dataclass(frozen=True)
class DecoderState:
    """Everything that decoding carries from one position to the next."""

    prepared: Prepared
    """What attention knows of the sentences: a row a sentence, whatever the number of hypotheses."""
    recurrent: tuple[Tensor, ...]
    """What the wiring carries, each [B, Q, ...]."""
    carried: tuple[Tensor, ...] = ()
    """What the attention carries, each [B, Q, ...]."""
    position: int = 0
    """Target positions read so far."""
    weights: AttentionWeights | None = None
    """Where the last step looked."""
    translated: Translated | None = None
    """What was translated before these sentences; None where nothing was, or nothing looks back at it."""
    summary: Summary | None = None
    """What was said before these sentences; None where nothing was, or nothing asks for it as a summary."""
    dropped: Factors = ()
    """Factors of dropout between layers for all positions of known targets."""

    @property
    def attention_BQS(self) -> Tensor | None:
        """Weights of the last step, the mean of the heads; 0 on padding."""
        return None if self.weights is None else self.weights.mean()

    def enter(self, projected_BQG: Tensor, hidden_BQH: Tensor) -> Tensor:
        """The pre-activations of a step of the lowest layer, whose state before is `hidden_BQH`, with all that enters
        them beside inputs and context."""
        return projected_BQG if self.summary is None else self.summary.enter(projected_BQG, hidden_BQH)

    @property
    def factors(self) -> Factors:
        """Those of dropout between layers, for the next step."""
        return tuple(part[:, self.position : self.position + 1] for part in self.dropped)

    def after(self, recurrent: tuple[Tensor, ...], look: Look) -> DecoderState:
        """The state after a step."""
        return replace(
            self, recurrent=recurrent, carried=look.carried, position=self.position + 1, weights=look.weights
        )

    def select(self, sentences_N: Tensor | None, hypotheses_NQ: Tensor) -> DecoderState:
        """The state whose row n is sentence `sentences_N[n]`, its query q the old hypothesis `hypotheses_NQ[n, q]`.

        None keeps all sentences, and copies nothing of them.
        """
        prepared, translated, summary = self.prepared, self.translated, self.summary
        if sentences_N is not None:
            prepared = prepared.select(sentences_N)
            summary = None if summary is None else summary.select(sentences_N)
            translated = None if translated is None else translated.select(sentences_N)
        else:
            sentences_N = torch.arange(len(hypotheses_NQ), device=hypotheses_NQ.device)
        rows_N1 = sentences_N.unsqueeze(1)
        return replace(
            self,
            prepared=prepared,
            recurrent=tuple(part[rows_N1, hypotheses_NQ] for part in self.recurrent),
            carried=tuple(part[rows_N1, hypotheses_NQ] for part in self.carried),
            weights=None if self.weights is None else self.weights.select(rows_N1, hypotheses_NQ),
            translated=translated,
            summary=summary,
        )


class Wiring(nn.Module):
    """The recurrence of the decoder."""

    hidden_size: int
    """Features of what is handed to the readout as the decoder's state."""
    context_size: int
    fed_size: int = 0
    """Features of what a step hands to the next beside the recurrent states, last among them; 0 before the first."""
    attention: Attention
    bridge: Bridge

    def __init__(self, kernels: Kernels) -> None:
        super().__init__()
        self.steps = kernels.steps

    def build_readout(self, model: schema.ModelConfig, input_size: int, kernels: Kernels) -> Readout:
        """The readout of what this wiring puts out."""
        return DeepOutput(model, self.hidden_size, self.context_size, input_size, kernels)

    def start(self, encoded: Encoded) -> DecoderState:
        """The state before the first position, with one hypothesis a sentence."""
        prepared = self.attention.prepare(encoded)
        recurrent = self.bridge(encoded, prepared)
        if self.fed_size:
            recurrent += (recurrent[0].new_zeros(len(recurrent[0]), 1, self.fed_size),)
        return DecoderState(prepared, recurrent, self.attention.start(prepared), summary=encoded.summary)

    def project(self, inputs_BTE: Tensor) -> Tensor:
        """The products with the inputs, for all positions at once: [B, T, ...]."""
        raise AssertionError("a wiring projects its inputs")

    def advance(self, projected_BQG: Tensor, state: DecoderState) -> tuple[DecoderState, Output]:
        """One step of every hypothesis."""
        raise AssertionError("a wiring advances")

    def draw(self, batch: int, positions: int) -> Factors:
        """Factors of dropout between the layers that a step runs one after another, for all positions."""
        return ()

    def scan(self, inputs_BTE: Tensor, encoded: Encoded) -> tuple[Output, AttentionWeights | None]:
        """All positions of known targets: outputs [B, T, ...], and where each looked.

        The weights are for looking at and for extra losses; they cost nothing that the steps do not need.
        """
        state = replace(self.start(encoded), dropped=self.draw(*inputs_BTE.shape[:2]))
        if self.can_record(encoded):
            return self.scan_recorded(inputs_BTE, state)
        hiddens, contexts, weights = [], [], []
        for projected_BG in self.project(inputs_BTE).unbind(1):
            state, output = self.advance(projected_BG.unsqueeze(1), state)
            hiddens.append(output.hidden)
            contexts.append(output.context)
            weights.append(state.weights)
        return Output(torch.cat(hiddens, 1), torch.cat(contexts, 1)), AttentionWeights.join(weights)

    def unsupported_reason(self) -> str:
        """Why the recurrence cannot be recorded, with the path in the YAML; empty where it can."""
        return "model.attention.wiring has no fused form"

    def can_record(self, encoded: Encoded) -> bool:
        """Whether `scan_recorded` runs the recurrence over these sentences; otherwise autograd does."""
        return self.steps is not None and not self.unsupported_reason() and not encoded.enters_steps

    def record(self, tape: Tape, projected: Term, state: DecoderState) -> tuple[Value, Value]:
        """Record one step, as `advance` makes it; the values of the hidden state and the context that it puts out."""
        raise AssertionError("nothing keeps this recurrence from being recorded")

    def scan_recorded(self, inputs_BTE: Tensor, state: DecoderState) -> tuple[Output, AttentionWeights]:
        """`scan` from this state, with the recurrence recorded and replayed."""
        assert self.steps is not None
        projected_BTG = self.project(inputs_BTE)
        tape = Tape(self.steps, projected_BTG)
        hidden, context = self.record(tape, tape.input(projected_BTG), state)
        hidden_BTH, context_BTC, weights_BTS = tape.run(hidden, context)
        weights = AttentionWeights(weights_BTS.unsqueeze(2), None, None, weights_BTS.shape[2])
        return Output(hidden_BTH, context_BTC), weights


WIRINGS: Registry[Wiring] = Registry("wiring")


def build_wiring(model: schema.ModelConfig, input_size: int, memory_size: int, kernels: Kernels) -> Wiring:
    """The wiring that the model's options name, for inputs [.., input_size] and a memory [.., memory_size]."""
    return WIRINGS.build(model.attention.wiring, model, input_size, memory_size, kernels)


def gate_input(features: int, projected_size: int, gates: int) -> nn.Linear:
    """A map of further features to what enters a cell beside its input, initialised as the input's own."""
    layer = nn.Linear(features, projected_size, bias=False)
    for block in layer.weight.chunk(gates):
        nn.init.xavier_uniform_(block)
    return layer
