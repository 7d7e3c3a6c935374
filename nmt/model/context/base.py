"""Document context: the translator reads the sentences before a sentence in its document.

Shapes: B sentences, M encoded previous sentences, S positions of one, Q queries, C features, L sentences that have
context, P positions back in the document, N entries of L x P that exist.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from nmt.config import schema
from nmt.config.registry import PartOptions, Registry
from nmt.config.schema import NetworkPartOptions
from nmt.data.batching import DocumentContext, PreviousSentences
from nmt.kernels.select import Kernels
from nmt.model.attention import Encoded, Prepared


@dataclass(frozen=True)
class Sentences:
    """States of sentences that are context."""

    states_MSC: Tensor
    mask_MS: Tensor
    """True at the positions of a sentence, False at padding."""

    @staticmethod
    def join(sentences: Sequence[Sentences | None]) -> Sentences | None:
        """Concatenates sentences; returns None if there are none."""
        parts = [part for part in sentences if part is not None]
        if not parts:
            return None
        width = max(part.mask_MS.shape[1] for part in parts)
        states = [nn.functional.pad(part.states_MSC, (0, 0, 0, width - part.states_MSC.shape[1])) for part in parts]
        masks = [nn.functional.pad(part.mask_MS, (0, width - part.mask_MS.shape[1])) for part in parts]
        return Sentences(torch.cat(states), torch.cat(masks))

    def copy(self, number: int, length: int) -> Sentences:
        """Copies one of the sentences without padding, so that it does not hold on to the others."""
        part = (slice(number, number + 1), slice(length))
        return Sentences(self.states_MSC[part].clone(), self.mask_MS[part].clone())


@dataclass(frozen=True)
class ContextWeights:
    """Attention weights of the positions of sentences to the previous sentences."""

    previous: PreviousSentences
    words_NQS: Tensor
    """Weights of the words in each previous sentence; exactly 0 on padding. Q is 1 if all positions have the same."""
    sentences_LQP: Tensor
    """Weights of the previous sentences, nearest first; exactly 0 where there is none."""


@dataclass(frozen=True)
class PreparedContext:
    """Translations of the previous sentences of the sentences that are being translated."""

    words: Prepared
    """Of the P previous sentences of each of B sentences, [B x P, ...]; of any sentence where there is none."""
    present_BP: Tensor

    def select(self, sentences_N: Tensor) -> PreparedContext:
        """Returns the rows of these sentences."""
        sentences = self.present_BP.shape[1]
        rows_NP = sentences_N.unsqueeze(1) * sentences + torch.arange(sentences, device=sentences_N.device)
        return PreparedContext(self.words.select(rows_NP.flatten()), self.present_BP.index_select(0, sentences_N))


class ContextOptions(NetworkPartOptions):
    """Options of document context."""

    @property
    def document_context(self) -> DocumentContext | None:
        """The sentences that it reads; None without context."""
        return None


class Context(nn.Module):
    """Document context of a translator; this one has none."""

    document_context: DocumentContext | None = None
    """The sentences that it reads; None without context."""

    def unsupported_reason(self) -> str:
        """Why the decoder's recurrence cannot be recorded, with the path in the YAML; empty where it can."""
        return ""

    def add_source_context(
        self, encoded: Encoded, previous: PreviousSentences, states: Sentences | None
    ) -> tuple[Encoded, ContextWeights | None]:
        """Adds context to the encoded sources.

        `states` are the encoder states of the previous sentences; None: they are among the sources.
        """
        raise AssertionError("no context for sources")

    def add_target_context(
        self, states_BTH: Tensor, previous: PreviousSentences, states: Sentences
    ) -> tuple[Tensor, ContextWeights | None]:
        """Adds context to the decoder's states [B, T, H] of all positions.

        `states` are the decoder states of the previous sentences.
        """
        raise AssertionError("no context for translations")

    def prepare(self, previous: PreviousSentences, states: Sentences, sentences: int) -> PreparedContext:
        """Prepares the context of so many sentences that are to be translated, for `step`."""
        raise AssertionError("no context for translations")

    def step(self, states_BQH: Tensor, context: PreparedContext) -> Tensor:
        """Adds context to the decoder's states of every hypothesis after a step."""
        raise AssertionError("no context for translations")


CONTEXTS: Registry[Context] = Registry("context")


class NoContextOptions(ContextOptions):
    kind: Literal["none"] = "none"


@CONTEXTS.register("none", NoContextOptions)
class NoContext(Context):
    """Every sentence by itself."""

    def __init__(self, options: PartOptions, model: schema.ModelConfig, hidden_size: int, kernels: Kernels) -> None:
        super().__init__()
