"""Base of wirings: when the decoder attends to the source, and where the context goes.

A wiring is the decoder's recurrence. `project` computes the products with the inputs for all positions at once;
`advance` is one step; `scan` equals repeated `advance`. A wiring without attention in its recurrence computes `scan` at
once.

Shapes: B sentences, Q queries, T target positions, S source positions, E embedding, H decoder hidden, C memory
features.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nmt.config import schema
from nmt.config.registry import Registry
from nmt.kernels.select import Kernels
from nmt.kernels.tape import Tape, Term, Value
from nmt.model.attention import Attention, AttentionOutput, AttentionWeights, Encoded, Prepared, Summary
from nmt.model.cells import DropoutMasks
from nmt.model.context import PreparedContext
from nmt.model.modules import Linear, initialize, module_list


class Output(NamedTuple):
    """Output of a wiring."""

    hidden: Tensor
    """Decoder state, [B, Q, H]."""
    context: Tensor
    """Context, [B, Q, C]; C may be 0."""


class LexicalModel(nn.Module):
    """Lexical model of Nguyen and Chiang 2018 (section 4), a vector that is added to the readout.

        l_t = tanh(sum over s of a(t, s) f_s);   h_t = tanh(W l_t + b) + l_t

    f_s is the embedding of source piece s, a the attention weights, with several heads their mean. The paper projects
    h_t to the vocabulary by a matrix of its own; here it shares that of the readout, which it is as wide as.
    """

    def __init__(self, embedding_size: int, kernels: Kernels) -> None:
        super().__init__()
        self.mix = Linear(embedding_size, embedding_size, kernels)
        initialize(self.mix)

    def forward(self, weights: AttentionWeights, embedded_BSE: Tensor) -> Tensor:
        """Returns h [B, Q, E] of target positions with these weights."""
        words_BQE = torch.tanh(weights.mean().to(embedded_BSE.dtype) @ embedded_BSE)
        mixed_BQE: Tensor = self.mix(words_BQE)
        return torch.tanh(mixed_BQE) + words_BQE


class Readout(nn.Module):
    """Input of the vocabulary projection."""

    def __init__(self, model: schema.ModelConfig, kernels: Kernels) -> None:
        super().__init__()
        self.size = readout_size(model)
        self.norm = nn.LayerNorm(self.size) if model.layer_normalization else nn.Identity()
        self.dropout = model.dropout.output
        self.drop = kernels.dropout

    def forward(self, output: Output, inputs_BTE: Tensor, lexical_BTR: Tensor | None) -> Tensor:
        """Returns the readout [B, T, R] of every position, with the lexical model's part where there is one."""
        mixed_BTR = self.norm(self.mixed(output, inputs_BTE))
        if lexical_BTR is not None:
            mixed_BTR = mixed_BTR + lexical_BTR
        # Contiguous, because dropout draws in memory order, which must not depend on the implementation.
        return self.drop(mixed_BTR.contiguous(), self.dropout, self.training)

    def mixed(self, output: Output, inputs_BTE: Tensor) -> Tensor:
        """Returns the readout before normalisation and dropout; here the decoder's state."""
        return output.hidden


class DeepOutput(Readout):
    """Deep output (Pascanu 2014; Bahdanau 2015, A.2.2): t = f(U s_t + V E y_{t-1} + C c_t).

    The paper's text conditions on s_t (eq. 4), its appendix on s_{t-1}: the wiring `bahdanau` has an option for it, the
    others hand over s_t, as its successors do. f is tanh, the identity, or the maximum of pairs.
    """

    def __init__(
        self, model: schema.ModelConfig, hidden_size: int, context_size: int, input_size: int, kernels: Kernels
    ) -> None:
        super().__init__(model, kernels)
        self.kind = model.decoder.readout.kind
        units = self.size * (2 if self.kind == "maxout" else 1)
        self.mix = Linear(hidden_size + context_size + input_size, units, kernels)
        initialize(self.mix)

    def mixed(self, output: Output, inputs_BTE: Tensor) -> Tensor:
        parts = (output.hidden, output.context, inputs_BTE)
        return nonlinear(self.mix(torch.cat([part.to(inputs_BTE.dtype) for part in parts], -1)), self.kind)


class LatentReadout(Readout):
    """Deep output of a latent alignment: t_s = f(U s_t + V E y_{t-1} + b + C m_s) for each annotation m_s.

    It is that of `DeepOutput` with the annotation itself in place of the context. Its two terms are computed once for
    every target and every source position; `pairs` adds them.
    """

    def __init__(
        self, model: schema.ModelConfig, hidden_size: int, context_size: int, input_size: int, kernels: Kernels
    ) -> None:
        """`input_size` 0: the readout does not see the previous word."""
        super().__init__(model, kernels)
        self.kind = model.decoder.readout.kind
        self.top_k = model.attention.top_k
        self.reads_inputs = input_size > 0
        units = self.size * (2 if self.kind == "maxout" else 1)
        self.mix = Linear(hidden_size + input_size, units, kernels)
        self.annotation = Linear(context_size, units, kernels, bias=False)
        initialize(self.mix, self.annotation)

    def forward(self, output: Output, inputs_BTE: Tensor, lexical_BTR: Tensor | None) -> Tensor:
        """Returns the terms [B, T, U] of the target positions; there is no lexical model."""
        assert lexical_BTR is None, "a latent alignment has no lexical model"
        parts = (output.hidden, inputs_BTE) if self.reads_inputs else (output.hidden,)
        terms_BTU: Tensor = self.mix(torch.cat([part.to(inputs_BTE.dtype) for part in parts], -1))
        return terms_BTU

    def annotation_terms(self, memory_BSC: Tensor) -> Tensor:
        """Returns the terms [B, S, U] of the annotations."""
        terms_BSU: Tensor = self.annotation(memory_BSC)
        return terms_BSU

    @property
    def norm_parameters(self) -> tuple[Tensor, ...]:
        """Gain and bias of the normalisation; empty without one."""
        return tuple(self.norm.parameters())

    def pairs(self, positions_N1U: Tensor, annotations_NKU: Tensor, norm: tuple[Tensor, ...]) -> Tensor:
        """Returns the readouts [N, K, R] of target positions, each with K annotations; `norm`: `norm_parameters`."""
        mixed_NKR = nonlinear(positions_N1U + annotations_NKU, self.kind)
        if norm:
            gain_R, bias_R = norm
            mixed_NKR = F.layer_norm(mixed_NKR, (self.size,), gain_R, bias_R)
        return self.drop(mixed_NKR, self.dropout, self.training)


def nonlinear(mixed: Tensor, kind: str) -> Tensor:
    """Returns tanh, the maximum of pairs [.., U / 2], or the sums [.., U] themselves: `readout.kind` says which."""
    if kind == "maxout":
        return mixed.view(*mixed.shape[:-1], -1, 2).amax(-1)
    return torch.tanh(mixed) if kind == "tanh" else mixed


def readout_size(model: schema.ModelConfig) -> int:
    """Returns the width of the readout: by default that of the embeddings."""
    return model.decoder.readout.size or model.embedding_size


class Bridge(nn.Module):
    """s_0 = tanh(W e + b) for each decoder layer and each part of its state (Bahdanau 2015, A.2.2).

    `model.decoder.bridge` chooses e. `final` and `backward` read the last states of the encoder layer of the same
    number, or of the top layer where encoder and decoder differ in their number of layers.

    - `final`: the last states of both directions.
    - `backward`: the last state of the backward direction, as in the paper.
    - `mean`: the mean of the annotations (Sennrich 2017, section 2).
    - `context`: the context of score `none`, which is the same at every step (Cho 2014, A.1).

    Two kinds have no W. `copy`: s_0 is the last states themselves, hidden and cell (Sutskever 2014; Luong 2015).
    `zero`: s_0 = 0. A summary of the document context adds its own term inside the tanh.
    """

    def __init__(self, model: schema.ModelConfig, parts: int, memory_size: int, kernels: Kernels) -> None:
        super().__init__()
        encoder, decoder, norm = model.encoder, model.decoder, model.layer_normalization
        self.kind = decoder.bridge
        self.parts = parts
        self.hidden_size = decoder.hidden_size
        self.direction_size = encoder.hidden_size
        self.encoder_layers = [model.encoder_layer(layer) for layer in range(decoder.layers)]
        if self.kind in ("zero", "copy"):
            return
        sizes = {"mean": memory_size, "context": memory_size, "backward": encoder.hidden_size}
        widths = [sizes.get(self.kind, encoder.widths[layer]) for layer in self.encoder_layers]
        self.maps = module_list(Linear(width, decoder.hidden_size, kernels) for width in widths for _ in range(parts))
        self.norms = module_list(nn.LayerNorm(decoder.hidden_size) if norm else nn.Identity() for _ in self.maps)
        initialize(*self.maps)

    def forward(self, encoded: Encoded, prepared: Prepared) -> tuple[Tensor, ...]:
        """Returns the parts of the first state, layer by layer, each [B, 1, H], in at least single precision."""
        states = [(layer, part) for layer in self.encoder_layers for part in range(self.parts)]
        summary_BAH = None if encoded.summary is None else encoded.summary.first_BAH
        if self.kind == "copy":
            return tuple(_last(encoded, *state).to(encoded.accumulation_dtype).unsqueeze(1) for state in states)
        if self.kind == "zero":
            if summary_BAH is None:
                batch = len(encoded.memory_BSC)
                zeros_B1H = encoded.memory_BSC.new_zeros(batch, 1, self.hidden_size, dtype=encoded.accumulation_dtype)
                return (zeros_B1H,) * len(states)
            mapped = list(summary_BAH.unbind(1))
        else:
            sources = (self._source(encoded, prepared, *state) for state in states)
            mapped = [layer(source) for layer, source in zip(self.maps, sources, strict=True)]
            if summary_BAH is not None:
                mapped = [one + other for one, other in zip(mapped, summary_BAH.unbind(1), strict=True)]
            mapped = [norm(each) for norm, each in zip(self.norms, mapped, strict=True)]
        return tuple(torch.tanh(each).to(encoded.accumulation_dtype).unsqueeze(1) for each in mapped)

    def _source(self, encoded: Encoded, prepared: Prepared, layer: int, part: int) -> Tensor:
        """Returns e, [B, C] or [B, F]."""
        if self.kind == "mean":
            return encoded.memory_BSC.sum(1) / encoded.mask_BS.sum(1, keepdim=True)
        if self.kind == "context":
            return prepared.memory.squeeze(1)
        last_BF = _last(encoded, layer, part)
        # The forward direction stands first.
        return last_BF[:, self.direction_size :] if self.kind == "backward" else last_BF


def _last(encoded: Encoded, layer: int, part: int) -> Tensor:
    """Returns a part of an encoder layer's last state, [B, F]; for a missing cell the hidden state."""
    parts = encoded.final_LBF[layer]
    return parts[min(part, len(parts) - 1)]


@dataclass(frozen=True)
class DecoderState:
    """State of the decoder between target positions. A value: steps return new states."""

    prepared: Prepared
    """Prepared memory of attention: one row per sentence, not per hypothesis."""
    recurrent: tuple[Tensor, ...]
    """State of the recurrence, each tensor [B, Q, ...]."""
    carried: tuple[Tensor, ...] = ()
    """State of the attention, each tensor [B, Q, ...]."""
    position: int = 0
    """Target positions read so far."""
    weights: AttentionWeights | None = None
    """Attention weights of the last step."""
    prepared_context: PreparedContext | None = None
    """Translations of the previous sentences, or None."""
    summary: Summary | None = None
    """Summary of the previous sentences, or None."""
    dropout_masks: DropoutMasks = ()
    """Dropout masks between layers for all positions of known targets."""
    annotation_terms_BSU: Tensor | None = None
    """Terms of the annotations in the readout of a latent alignment, or None."""
    embedded_BSE: Tensor | None = None
    """Embeddings of the source pieces for the lexical model, or None."""
    attended: AttentionOutput | None = None
    """Attention of the last step, before hypotheses were selected."""
    readout_BQR: Tensor | None = None
    """Readout of the last step, before hypotheses were selected."""

    @property
    def attention_BQS(self) -> Tensor | None:
        """Weights of the last step, the mean of the heads; 0 on padding."""
        return None if self.weights is None else self.weights.mean()

    @property
    def head_attention_BQNS(self) -> Tensor | None:
        """Weights of the last step, of each head; 0 on padding."""
        return None if self.weights is None else self.weights.dense()

    @property
    def step_masks(self) -> DropoutMasks:
        """Dropout masks between layers for the next step."""
        return tuple(part[:, self.position : self.position + 1] for part in self.dropout_masks)

    def after(self, recurrent: tuple[Tensor, ...], attended: AttentionOutput) -> DecoderState:
        """Returns the state after a step."""
        return replace(
            self,
            prepared=self.prepared if self.prepared.given is None else replace(self.prepared, given=None),
            recurrent=recurrent,
            carried=attended.carried,
            position=self.position + 1,
            weights=attended.weights,
            attended=attended,
        )

    def attending(self, weights: Tensor) -> DecoderState:
        """Returns the state whose next step takes these weights, broadcastable to [B, Q, N, S], instead of its own."""
        memory, (batch, hypotheses) = self.prepared.memory, self.recurrent[0].shape[:2]
        has_heads = memory.dim() == 4
        weights_BQNS = weights.to(self.prepared.bias).expand(
            batch, hypotheses, memory.shape[1] if has_heads else 1, memory.shape[-2]
        )
        given = weights_BQNS.transpose(1, 2) if has_heads else weights_BQNS.squeeze(2)
        return replace(self, prepared=replace(self.prepared, given=given))

    def select(self, sentences_N: Tensor | None, hypotheses_NQ: Tensor) -> DecoderState:
        """Returns the state of sentences `sentences_N` and their hypotheses `hypotheses_NQ`, in this order.

        None keeps all sentences, without a copy.
        """
        prepared, context, summary = self.prepared, self.prepared_context, self.summary
        annotation_terms_BSU, embedded_BSE = self.annotation_terms_BSU, self.embedded_BSE
        if sentences_N is not None:
            if embedded_BSE is not None:
                embedded_BSE = embedded_BSE.index_select(0, sentences_N)
            if annotation_terms_BSU is not None:
                annotation_terms_BSU = annotation_terms_BSU.index_select(0, sentences_N)
            prepared = prepared.select(sentences_N)
            summary = None if summary is None else summary.select(sentences_N)
            context = None if context is None else context.select(sentences_N)
        else:
            sentences_N = torch.arange(len(hypotheses_NQ), device=hypotheses_NQ.device)
        rows_N1 = sentences_N.unsqueeze(1)
        return replace(
            self,
            prepared=prepared,
            recurrent=tuple(part[rows_N1, hypotheses_NQ] for part in self.recurrent),
            carried=tuple(part[rows_N1, hypotheses_NQ] for part in self.carried),
            weights=None if self.weights is None else self.weights.select(rows_N1, hypotheses_NQ),
            prepared_context=context,
            summary=summary,
            annotation_terms_BSU=annotation_terms_BSU,
            embedded_BSE=embedded_BSE,
            attended=None,
            readout_BQR=None,
        )


class Wiring(nn.Module):
    """The recurrence of the decoder."""

    hidden_size: int
    """Features of the state that the readout gets."""
    attention: Attention
    feed: nn.Linear | None
    """Input feeding: maps a tensor, which is the last part of the state and starts at 0, to pre-activations."""
    bridge: Bridge

    def __init__(self, kernels: Kernels) -> None:
        super().__init__()
        self.steps = kernels.steps
        self.feed = None

    def build_readout(self, model: schema.ModelConfig, input_size: int, kernels: Kernels) -> Readout:
        """Builds the readout for this wiring's outputs."""
        readout = LatentReadout if model.attention.alignment == "latent" else DeepOutput
        return readout(model, self.hidden_size, self.attention.context_size, input_size, kernels)

    def start(self, encoded: Encoded) -> DecoderState:
        """Returns the state before the first position, with one hypothesis per sentence."""
        prepared = self.attention.prepare(encoded)
        recurrent = self.bridge(encoded, prepared)
        if self.feed is not None:
            recurrent += (recurrent[0].new_zeros(len(recurrent[0]), 1, self.feed.in_features),)
        return DecoderState(prepared, recurrent, self.attention.start(prepared), summary=encoded.summary)

    def project(self, inputs_BTE: Tensor) -> Tensor:
        """Returns the products with the inputs of all positions, [B, T, ...]."""
        raise AssertionError("a wiring projects its inputs")

    def enter(self, projected_BQG: Tensor, state: DecoderState) -> Tensor:
        """Adds input feeding and the summary's term to the pre-activations of the lowest layer."""
        if self.feed is not None:
            projected_BQG = projected_BQG + self.feed(state.recurrent[-1])
        return projected_BQG if state.summary is None else state.summary.enter(projected_BQG, state.recurrent[0])

    def advance(self, projected_BQG: Tensor, state: DecoderState) -> tuple[DecoderState, Output]:
        """Advances each hypothesis by one step."""
        raise AssertionError("a wiring advances")

    def top(self, recurrent: tuple[Tensor, ...]) -> Tensor:
        """Returns the hidden state [B, Q, H] of the top layer."""
        layers = recurrent if self.feed is None else recurrent[:-1]
        return layers[-self.bridge.parts]

    def draw(self, batch: int, positions: int) -> DropoutMasks:
        """Draws the dropout masks between the layers of a step, for all positions."""
        return ()

    def scan(self, inputs_BTE: Tensor, encoded: Encoded) -> tuple[Output, AttentionWeights | None]:
        """Computes all positions of known targets; returns outputs [B, T, ...] and attention weights.

        The weights serve extra losses and pictures; they cost nothing that the steps do not need.
        """
        state = replace(self.start(encoded), dropout_masks=self.draw(*inputs_BTE.shape[:2]))
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
        """Returns why the recurrence cannot be recorded, with the path in the YAML; empty if it can."""
        return "model.attention.wiring has no native or Triton kernel"

    def can_record(self, encoded: Encoded) -> bool:
        """Returns whether `scan_recorded` runs the recurrence; otherwise autograd does."""
        return self.steps is not None and not self.unsupported_reason() and not encoded.has_step_term

    def record(self, tape: Tape, projected: Term, state: DecoderState) -> tuple[Value, Value]:
        """Records one step of `advance`; returns the values of the hidden state and the context."""
        raise AssertionError("this recurrence can be recorded")

    def scan_recorded(self, inputs_BTE: Tensor, state: DecoderState) -> tuple[Output, AttentionWeights]:
        """Computes `scan` from this state by a recorded recurrence."""
        assert self.steps is not None
        projected_BTG = self.project(inputs_BTE)
        tape = Tape(self.steps, projected_BTG)
        hidden, context = self.record(tape, tape.input(projected_BTG), state)
        hidden_BTH, context_BTC, weights_BTS = tape.run(hidden, context)
        weights = AttentionWeights(weights_BTS.unsqueeze(2), None, None, weights_BTS.shape[2])
        return Output(hidden_BTH, context_BTC), weights


WIRINGS: Registry[Wiring] = Registry("wiring")


def gate_input(features: int, projected_size: int, gates: int) -> nn.Linear:
    """Returns a map of further features to a cell's pre-activations, initialised as the input's own."""
    layer = nn.Linear(features, projected_size, bias=False)
    initialize(layer, gates=gates)
    return layer
