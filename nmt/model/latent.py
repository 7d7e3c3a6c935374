"""Latent alignment ("hard attention"): the prediction of a piece is a mixture over the source positions.

    p(y_t | y_<t, x) = sum over s of a_ts p(y_t | y_<t, x, m_s)

a_ts, the attention weight, is the probability that piece t is aligned with source position s, and the readout sees the
annotation m_s alone where a soft alignment shows it the context sum over s of a_ts m_s (Wu 2018, section 3; Deng 2018,
section 2; Shankar 2018). The sum over all alignments of a sentence is the product of these sums: the decoder's state
depends on the source and on the pieces before, never on their alignments, so that the pieces' alignments are
independent (IBM model 1). A wiring whose state reads a context reads the expected one, sum over s of a_ts m_s.

With `model.attention.top_k` only the k positions with the largest weights are mixed (Shankar 2018), their weights
divided by their sum, so that p remains a distribution.

Shapes: B sentences, S source positions, T target positions, N of all of them, K alternatives, U terms of the readout, R
readout, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nmt.kernels.cross_entropy.chunked import CHUNK, chunks
from nmt.kernels.cross_entropy.mixture import (
    log_weights,
    mixture,
    mixture_cross_entropy,
    sum_of_chunks,
    target_terms,
)
from nmt.kernels.cross_entropy.reference import Losses
from nmt.model.wiring import LatentReadout
from nmt.runtime import product_dtype


@dataclass(frozen=True)
class Alternatives:
    """Target positions, each with the source positions that it may be aligned with."""

    readout: LatentReadout
    positions_NU: Tensor
    """Terms of the target positions in the readout."""
    annotations_BSU: Tensor
    """Terms of the annotations."""
    sentence_N: Tensor
    """Sentence of each target position."""
    source_NK: Tensor | None
    """Source positions of the alternatives; None: all of them."""
    log_weights_NK: Tensor
    """log a_ts; minus infinity on padding."""
    source_positions: int
    """S."""

    @staticmethod
    def of(readout: LatentReadout, positions_BTU: Tensor, annotations_BSU: Tensor, weights_BTS: Tensor) -> Alternatives:
        """Returns the alternatives of all target positions, in the order of the flattened [B x T] target."""
        batch, targets, positions = weights_BTS.shape
        sentence_N = torch.arange(batch, device=weights_BTS.device).repeat_interleave(targets)
        weights_NK, source_NK = weights_BTS.flatten(0, 1), None
        if readout.top_k is not None and readout.top_k < positions:
            weights_NK, source_NK = weights_NK.topk(readout.top_k, 1)
            weights_NK = weights_NK / weights_NK.sum(1, keepdim=True)
        positions_NU = positions_BTU.flatten(0, 1)
        return Alternatives(
            readout, positions_NU, annotations_BSU, sentence_N, source_NK, log_weights(weights_NK), positions
        )

    def select(self, rows_N: Tensor) -> Alternatives:
        """Returns the alternatives of these target positions."""
        return replace(
            self,
            positions_NU=self.positions_NU.index_select(0, rows_N),
            sentence_N=self.sentence_N.index_select(0, rows_N),
            source_NK=None if self.source_NK is None else self.source_NK.index_select(0, rows_N),
            log_weights_NK=self.log_weights_NK.index_select(0, rows_N),
        )

    def log_probabilities(self, projection: nn.Linear) -> Tensor:
        """Returns log p of all pieces at each target position, [N, V], in at least single precision."""
        parts = [mixture(projection(self._readouts(rows)), self.log_weights_NK[rows]) for rows in self._chunks()]
        return torch.cat(parts)

    def posterior(self, projection: nn.Linear, target_N: Tensor) -> tuple[Tensor, Tensor]:
        """Returns log p of the target pieces, [N], and the posterior of their alignments, [N, S].

        The posterior is a_ts p(y_t | m_s) / p(y_t): it knows the piece, as the weights a_ts do not.
        """
        parts = [
            target_terms(projection(self._readouts(rows)), self.log_weights_NK[rows], target_N[rows])
            for rows in self._chunks()
        ]
        terms_NK = torch.cat(parts)
        posterior_NS = torch.softmax(terms_NK, 1)
        if self.source_NK is not None:
            empty_NS = posterior_NS.new_zeros(len(posterior_NS), self.source_positions)
            posterior_NS = empty_NS.scatter(1, self.source_NK, posterior_NS)
        return terms_NK.logsumexp(1), posterior_NS

    def losses(self, projection: nn.Linear, target_N: Tensor, smoothing: float) -> Losses:
        """Returns the losses of the target pieces, with label smoothing."""
        readout = self.readout
        dtype = product_dtype(self.positions_NU)
        sum_dtype = torch.promote_types(dtype, torch.float32)

        def of_chunk(
            rows: slice,
            positions_NU: Tensor,
            annotations_BSU: Tensor,
            log_weights_NK: Tensor,
            weight_VR: Tensor,
            bias_V: Tensor,
            *norm: Tensor,
        ) -> Losses:
            chunk = replace(self, positions_NU=positions_NU, annotations_BSU=annotations_BSU)
            readout_NKR = chunk._readouts(rows, norm).to(dtype)
            logits_NKV = F.linear(readout_NKR, weight_VR.to(dtype), bias_V.to(dtype))
            return mixture_cross_entropy(logits_NKV, log_weights_NK[rows], target_N[rows], smoothing)

        tensors = (self.positions_NU, self.annotations_BSU, self.log_weights_NK, projection.weight, projection.bias)
        return sum_of_chunks(of_chunk, list(self._chunks()), (*tensors, *readout.norm_parameters), sum_dtype)

    def _chunks(self) -> Iterator[slice]:
        positions, alternatives = self.log_weights_NK.shape
        return chunks(positions, max(CHUNK // alternatives, 1))

    def _readouts(self, rows: slice, norm: tuple[Tensor, ...] | None = None) -> Tensor:
        """Returns the readouts [n, K, R] of a chunk, in at least single precision; `norm` as for `pairs`."""
        annotations_NKU = self.annotations_BSU.index_select(0, self.sentence_N[rows])
        if self.source_NK is not None:
            source_NKU = self.source_NK[rows].unsqueeze(2).expand(-1, -1, annotations_NKU.shape[2])
            annotations_NKU = annotations_NKU.gather(1, source_NKU)
        positions_N1U = self.positions_NU[rows].unsqueeze(1)
        dtype = torch.promote_types(positions_N1U.dtype, torch.float32)
        norm = self.readout.norm_parameters if norm is None else norm
        return self.readout.pairs(positions_N1U.to(dtype), annotations_NKU.to(dtype), norm)
