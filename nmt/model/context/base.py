"""What a translator is told of the sentences before, in the document that it translates.

Shapes: B sentences, M sentences that are remembered, S positions of one, Q queries, C features, L sentences that have
something before them, P sentences that are looked back to, N those of the L x P that there are.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
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
    """States of sentences, for others to look at."""

    states_MSC: Tensor
    mask_MS: Tensor
    """True at the positions of a sentence, False at padding."""

    @staticmethod
    def join(parts: list[Sentences]) -> Sentences:
        """Sentences one after the other, as one."""
        width = max(part.mask_MS.shape[1] for part in parts)
        states = [nn.functional.pad(part.states_MSC, (0, 0, 0, width - part.states_MSC.shape[1])) for part in parts]
        masks = [nn.functional.pad(part.mask_MS, (0, width - part.mask_MS.shape[1])) for part in parts]
        return Sentences(torch.cat(states), torch.cat(masks))

    def select(self, sentences_N: Tensor) -> Sentences:
        """Those of these numbers."""
        return Sentences(self.states_MSC.index_select(0, sentences_N), self.mask_MS.index_select(0, sentences_N))

    def detach(self) -> Sentences:
        """The same, through which no gradient flows."""
        return replace(self, states_MSC=self.states_MSC.detach())


@dataclass(frozen=True)
class ContextWeights:
    """Where the positions of sentences looked in the sentences before."""

    past: PreviousSentences
    words_NQS: Tensor
    """Within each of the sentences before; exactly 0 on padding."""
    sentences_LQP: Tensor
    """Among the sentences before, nearest first; exactly 0 where there is none."""


@dataclass(frozen=True)
class Translated:
    """What was translated before the sentences that are being translated."""

    words: Prepared
    """Of each of P sentences before each of B sentences, [B x P, ...]; of any sentence where there is none."""
    present_BP: Tensor

    def select(self, sentences_N: Tensor) -> Translated:
        """The rows of these sentences."""
        sentences = self.present_BP.shape[1]
        rows_NP = sentences_N.unsqueeze(1) * sentences + torch.arange(sentences, device=sentences_N.device)
        return Translated(self.words.select(rows_NP.flatten()), self.present_BP.index_select(0, sentences_N))


class ContextOptions(NetworkPartOptions):
    """Options of what a translator is told of the sentences before."""

    @property
    def lookback(self) -> DocumentContext | None:
        """What it wants of them; None where it wants nothing."""
        return None


class Context(nn.Module):
    """What a translator is told of the sentences before; this one tells nothing."""

    lookback: DocumentContext | None = None
    """What it wants of them; None where it wants nothing."""

    def unsupported_reason(self) -> str:
        """Why the decoder's recurrence cannot be recorded, with the path in the YAML; empty where it can."""
        return ""

    def read(
        self, encoded: Encoded, past: PreviousSentences, before: Sentences | None
    ) -> tuple[Encoded, ContextWeights | None]:
        """The sources as they stand in their documents.

        `before` are the states that the encoder gave of the sentences before; None: they are among the sources.
        """
        raise AssertionError("no source looks back")

    def tell(
        self, states_BTH: Tensor, past: PreviousSentences, before: Sentences
    ) -> tuple[Tensor, ContextWeights | None]:
        """The decoder's states [B, T, H] of all positions as they stand in their documents.

        `before` are the states that the decoder had in the sentences before.
        """
        raise AssertionError("no translation looks back")

    def start(self, past: PreviousSentences, before: Sentences, sentences: int) -> Translated:
        """What so many sentences that are to be translated have before them."""
        raise AssertionError("no translation looks back")

    def step(self, states_BQH: Tensor, translated: Translated) -> Tensor:
        """The decoder's states of every hypothesis after a step, as they stand in their documents."""
        raise AssertionError("no translation looks back")


CONTEXTS: Registry[Context] = Registry("context")


class NoContextOptions(ContextOptions):
    """Every sentence is translated by itself."""

    kind: Literal["none"] = "none"
    """Every sentence is translated by itself."""


@CONTEXTS.register("none", NoContextOptions)
class NoContext(Context):
    """Every sentence by itself."""

    def __init__(self, options: PartOptions, model: schema.ModelConfig, hidden_size: int, kernels: Kernels) -> None:
        super().__init__()
