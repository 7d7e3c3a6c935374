"""A score inside a window, with one head or several.

Shapes: B sentences, N heads, Q queries, S source positions, C memory features, H query features, D head features.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nmt.config.schema import AttentionConfig
from nmt.kernels.attention import attend
from nmt.kernels.select import Kernels
from nmt.kernels.steps import Annotations
from nmt.kernels.tape import Row, Tape, Value
from nmt.model.attention.base import (
    COVERAGES,
    SCORES,
    WINDOWS,
    Attention,
    AttentionOutput,
    AttentionWeights,
    Carried,
    ClosedForm,
    Coverage,
    Encoded,
    Prepared,
    Score,
    Window,
    WindowOutput,
    spread,
)
from nmt.model.attention.normalizers import Normalizer
from nmt.model.modules import initialize
from nmt.runtime import product_dtype


class SoftAttention(Attention):
    """A score inside a window, with or without coverage."""

    def __init__(
        self,
        score: Score,
        window: Window,
        coverage: Coverage,
        normalizer: Normalizer,
        memory_size: int,
        kernels: Kernels,
    ) -> None:
        super().__init__()
        self.score = score
        self.window = window
        self.coverage = coverage
        self.normalizer = normalizer
        self.context_size = memory_size
        self.steps = kernels.steps

    def prepare(self, encoded: Encoded) -> Prepared:
        # Cast once for the sentence: autocast would cast again at every step.
        memory_BSC = encoded.memory_BSC.to(product_dtype(encoded.memory_BSC))
        return self.prepare_memory(memory_BSC, memory_BSC, encoded.mask_BS, encoded.accumulation_dtype)

    def prepare_memory(self, memory: Tensor, compared: Tensor, mask: Tensor, dtype: torch.dtype) -> Prepared:
        """Prepares values [..., S, C] and the input of the keys [..., S, C']; the mask is [..., S]."""
        bias = torch.zeros_like(mask, dtype=dtype).masked_fill_(~mask, -torch.inf)
        keys, lengths = self.score.keys(compared), mask.sum(-1).to(dtype)
        prepared = Prepared(memory, keys, bias, lengths, self.coverage.prepare(memory))
        if keys is not None and self.score.units and self.window.is_whole and not self.coverage.accumulates:
            prepared = replace(prepared, is_additive=True)
        return self.window.prepare(prepared)

    def start(self, prepared: Prepared) -> Carried:
        return self.coverage.start(prepared)

    def forward(self, query_BQH: Tensor, prepared: Prepared, carried: Carried, position: int | None) -> AttentionOutput:
        mixed, carried = self.attend(query_BQH, prepared, carried, position)
        weights = self.weights(mixed, prepared, lambda part: part.unsqueeze(2))
        scores_BQNW = None if mixed.scores is None else mixed.scores.unsqueeze(2)
        return AttentionOutput(mixed.context, weights, carried, query_BQH, scores_BQNW)

    def scan(self, query_BTH: Tensor, prepared: Prepared) -> AttentionOutput:
        form = None if self.unsupported_reason() else self.score.closed_form()
        if self.steps is None or form is None or form.energy is None or form.query is None:
            # A multiplicative score is one product for all positions: the kernel gains nothing.
            return super().scan(query_BTH, prepared)
        context_BTC, weights_BTS = attend(self.steps, F.linear(query_BTH, form.query), _annotations(prepared, form))
        return AttentionOutput(
            context_BTC, AttentionWeights(weights_BTS.unsqueeze(2), None, None, weights_BTS.shape[2])
        )

    def unsupported_reason(self) -> str:
        if self.score.closed_form() is None:
            return "model.attention.score has no native or Triton kernel"
        if not self.window.is_whole:
            return "model.attention.window is not global"
        if self.coverage.accumulates:
            return "model.attention.coverage has no native or Triton kernel"
        return self.normalizer.unsupported

    def record(self, tape: Tape, query: Row, prepared: Prepared, context: Value | None = None) -> Value:
        form = self.score.closed_form()
        assert form is not None
        asked = query if form.query is None else tape.product(query, form.query)
        return tape.attend(asked, _annotations(prepared, form), context)

    def attend(
        self, query: Tensor, prepared: Prepared, carried: Carried, position: int | None
    ) -> tuple[WindowOutput, Carried]:
        """Attends with queries [..., Q, H]; the coverage is [..., Q, S, K] here."""
        covered = partial(self.coverage.at, carried)
        mixed = self.window(self.score, self.normalizer, query, prepared, covered, position)
        if prepared.given is not None:
            mixed = self.replaced(mixed, prepared, prepared.given)
        if carried:
            weights = spread(mixed.weights, mixed.positions, prepared.bias.shape[-1])
            carried = self.coverage.update(carried, weights, query, prepared)
        return mixed, carried

    def replaced(self, mixed: WindowOutput, prepared: Prepared, weights: Tensor) -> WindowOutput:
        """Returns the output of a window with the weights [..., Q, S] in place of its own."""
        context = self.normalizer.mixing(weights, prepared.memory.dtype) @ prepared.memory
        scores = mixed.scores
        if scores is not None:
            scores = spread(scores, mixed.positions, weights.shape[-1], torch.finfo(scores.dtype).min)
        return replace(mixed, context=context, weights=weights, positions=None, scores=scores)

    def weights(self, mixed: WindowOutput, prepared: Prepared, arrange: Callable[[Tensor], Tensor]) -> AttentionWeights:
        """Returns the weights of a window; `arrange` makes [B, Q, N, ...] of its tensors."""
        return AttentionWeights(
            arrange(mixed.weights),
            None if mixed.positions is None else arrange(mixed.positions),
            None if mixed.centers is None else arrange(mixed.centers),
            prepared.bias.shape[-1],
            self.window.half_width,
        )


class MultiHeadAttention(Attention):
    """Multi-head attention (Vaswani 2017, 3.2.2; additive with 4 heads in Chen 2018).

    head_n = attention(W_n^Q q, W_n^K m, W_n^V m);  context = W^O [head_1; ..; head_N]

    Each head has its own maps; the heads share the parameters of the score.
    """

    def __init__(self, heads: int, attention: SoftAttention, query_size: int, memory_size: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention = attention
        self.context_size = memory_size
        self.query = nn.Linear(query_size, query_size, bias=False)
        # A score that does not read the memory has no keys.
        self.key = nn.Linear(memory_size, query_size, bias=False) if attention.score.reads_memory else None
        self.value = nn.Linear(memory_size, query_size, bias=False)
        self.output = nn.Linear(query_size, memory_size, bias=False)
        initialize(self.query, self.key, self.value, self.output)

    def prepare(self, encoded: Encoded) -> Prepared:
        memory_BSC = encoded.memory_BSC.to(product_dtype(encoded.memory_BSC))
        values_BNSD = self._split(self.value(memory_BSC))
        keys_BNSD = values_BNSD if self.key is None else self._split(self.key(memory_BSC))
        mask_B1S = encoded.mask_BS.unsqueeze(1)
        return self.attention.prepare_memory(values_BNSD, keys_BNSD, mask_B1S, encoded.accumulation_dtype)

    def start(self, prepared: Prepared) -> Carried:
        return tuple(part.transpose(1, 2) for part in self.attention.start(prepared))

    def forward(self, query_BQH: Tensor, prepared: Prepared, carried: Carried, position: int | None) -> AttentionOutput:
        by_head = tuple(part.transpose(1, 2) for part in carried)
        mixed, by_head = self.attention.attend(self._split(self.query(query_BQH)), prepared, by_head, position)
        weights = self.attention.weights(mixed, prepared, lambda part: part.transpose(1, 2))
        context_BQC = self.output(mixed.context.transpose(1, 2).flatten(2))
        scores_BQNW = None if mixed.scores is None else mixed.scores.transpose(1, 2)
        carried = tuple(part.transpose(1, 2) for part in by_head)
        return AttentionOutput(context_BQC, weights, carried, query_BQH, scores_BQNW)

    def unsupported_reason(self) -> str:
        return "model.attention.heads is not 1"

    def _split(self, features: Tensor) -> Tensor:
        return features.view(*features.shape[:-1], self.heads, -1).transpose(1, 2)


def _annotations(prepared: Prepared, form: ClosedForm) -> Annotations:
    assert prepared.keys is not None, "a score in closed form has keys"
    keys = prepared.keys if form.scale == 1.0 else prepared.keys * form.scale
    return Annotations(keys, prepared.memory, prepared.bias, form.energy)


def build_attention(
    options: AttentionConfig, query_size: int, memory_size: int, kernels: Kernels, dropout: float = 0.0
) -> Attention:
    """Builds the attention for queries [.., query_size] and a memory [.., memory_size].

    `dropout` is the probability that a weight is dropped in training.
    """
    heads = options.heads
    assert query_size % heads == 0, "heads of equal size"
    # The score and the window of a head see the outputs of the head's maps.
    sizes = (query_size, memory_size) if heads == 1 else (query_size // heads, query_size // heads)
    score = SCORES.build(options.score, *sizes, kernels)
    if isinstance(score, Attention):
        return score
    window = WINDOWS.build(options.window, sizes[0])
    coverage = COVERAGES.build(options.coverage, score.units, *sizes)
    normalizer = Normalizer(options.normalizer, dropout, kernels)
    soft = SoftAttention(score, window, coverage, normalizer, sizes[1], kernels)
    return soft if heads == 1 else MultiHeadAttention(heads, soft, query_size, memory_size)
