"""One model or several, seen as one: the average of their probabilities (Sutskever 2014, section 3.6)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from nmt.kernels.native import inference
from nmt.kernels.native.calls import can_be_called
from nmt.search.shortlist import OwnPieces, Shortlists


class State(Protocol):
    """What a decoder knows after some steps. A value: no step changes it."""

    @property
    def attention_BQS(self) -> Tensor | None:
        """Attention weights of the last step, 0 on padding; None without attention."""
        ...

    def select(self, sentences_N: Tensor | None, hypotheses_NQ: Tensor) -> Any:
        """The state whose row n is sentence `sentences_N[n]`, its query q the old hypothesis `hypotheses_NQ[n, q]`.

        None keeps all sentences.
        """
        ...


class Stepping(Protocol):
    """What advances hypotheses."""

    def step(self, state: Any, previous_BQ: Tensor) -> tuple[Any, Tensor]:
        """The next state, and the logits [B, Q, V] of the piece that follows `previous_BQ`."""
        ...


class Model(Stepping, Protocol):
    """A translator as the search sees it. Must be in evaluation mode."""

    def encode(self, source_BS: Tensor, lengths_B: Tensor) -> Any:
        """Read the source, `lengths_B` on the CPU; what comes back is only ever handed to `start`."""
        ...

    def start(self, encoded: Any) -> Any:
        """The `State` before the first piece, with one hypothesis a sentence."""
        ...

    def narrowed(self, pieces_P: Tensor) -> Stepping:
        """Its steps, but that they give the logits [B, Q, P] of these pieces alone."""
        ...


class Ensemble:
    """The states of one or more models that translate the same sentences, advanced together.

    The models share the target vocabulary; each has its own state, attention and architecture. With shortlists each
    sentence has its own vocabulary, and a piece is its place in the sentence's list.
    """

    def __init__(
        self, models: Sequence[Model], source_BS: Tensor, lengths_B: Tensor, shortlists: Shortlists | None = None
    ) -> None:
        assert models, "an ensemble needs at least one model"
        self._models: Sequence[Stepping] = models
        self._states: list[State] = [model.start(model.encode(source_BS, lengths_B)) for model in models]
        self._own: OwnPieces | None = None
        if shortlists is not None:
            union_P = torch.from_numpy(shortlists.union).to(source_BS.device)
            self._models = [model.narrowed(union_P) for model in models]
            self._own = shortlists.on(source_BS.device)

    def step(self, previous_BQ: Tensor) -> Tensor:
        """The log-probabilities [B, Q, V] of the next piece, in float32 or better; the caller may overwrite them."""
        parts = []
        if self._own is not None:
            previous_BQ = self._own.spelled(previous_BQ)
        for index, model in enumerate(self._models):
            self._states[index], logits_BQV = model.step(self._states[index], previous_BQ)
            if self._own is not None:
                logits_BQV = self._own.own(logits_BQV)
            # On a CPU log_softmax over everything costs a third of logsumexp, although it writes more.
            if can_be_called(logits_BQV):
                parts.append(inference.log_softmax(logits_BQV))
            else:
                parts.append(logits_BQV.to(torch.promote_types(logits_BQV.dtype, torch.float32)).log_softmax(-1))
        if len(parts) == 1:
            return parts[0]
        assert len({part.shape for part in parts}) == 1, "models of an ensemble share their target vocabulary"
        return torch.logsumexp(torch.stack(parts), 0) - math.log(len(parts))

    @property
    def attention_BQS(self) -> Tensor | None:
        """Attention of the last step, averaged over the models that have any."""
        parts = [part for state in self._states if (part := state.attention_BQS) is not None]
        return torch.stack(parts).mean(0) if len(parts) > 1 else parts[0] if parts else None

    def select(self, sentences_N: Tensor | None, hypotheses_NQ: Tensor) -> None:
        """Keep these sentences, or all, and these hypotheses, in every model."""
        self._states = [state.select(sentences_N, hypotheses_NQ) for state in self._states]
        if self._own is not None and sentences_N is not None:
            self._own = self._own.select(sentences_N)
