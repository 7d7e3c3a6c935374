"""Translating, and the machine."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from nmt.config.registry import Section, decided
from nmt.config.schema.bounds import Beam, Count, Penalty, Tokens, Workers


class SearchConfig(Section):
    """How a translation is found. `nmt-translate` and `nmt-eval` may override each of these."""

    kind: Literal["beam", "greedy", "sampling"] = "beam"
    """Beam search, the most probable piece at every step, or a random draw."""
    beam_size: Beam = 5
    """Hypotheses kept for a sentence."""
    length_penalty: Penalty = 1.0
    """Exponent alpha of the length penalty ((5 + length) / 6) ** alpha of Wu 2016, eq. 14; 0 switches it off."""
    coverage_penalty: Penalty = 0.0
    """Weight beta of the coverage penalty of Wu 2016, eq. 14; needs attention."""
    min_length_ratio: Penalty = 0.0
    """Shortest translation as a ratio of the source length in pieces."""
    max_length_ratio: Annotated[float, Field(gt=0.0, le=100.0)] = 2.0
    """Longest translation as a ratio of the source length in pieces, plus `max_length_offset`."""
    max_length_offset: Annotated[int, Field(ge=0, le=10_000)] = 10
    """Pieces added to the longest translation."""
    no_repeat_ngram: Count = 0
    """Size of the n-grams that may not occur twice in a translation; 0 allows all."""
    allow_unknown: bool = True
    """Whether a translation may contain the unknown piece."""
    temperature: Annotated[float, Field(ge=1e-6, le=1_000.0)] = 1.0
    """Divides the logits before sampling."""
    top_k: Count = 0
    """Sample from the k most probable pieces; 0 means all."""
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    """Sample from the smallest set of pieces with this probability (Holtzman 2020)."""
    shortlist: Count = 0
    """Translate with a part of the vocabulary: so many likely translations of each source piece, from the lexicon that
    `nmt-lexicon` builds, and `shortlist_frequent`; 0 is the whole vocabulary."""
    shortlist_frequent: Count = 100
    """Pieces that a shortlist has whatever the source: the most frequent ones of the training text."""
    batch_tokens: Tokens = 4096
    """Padded source tokens translated at once."""

    def contradictions(self) -> Iterator[tuple[str, str]]:
        """No option is set that the kind of search would ignore."""
        for rule in (
            *map(self._of_sampling, ("temperature", "top_k", "top_p")),
            self._of_shortlists(),
            self._of_beams(),
        ):
            yield from decided(rule)
        yield from decided(self._shortest_and_longest())

    def _of_sampling(self, name: str) -> Iterator[tuple[str, str]]:
        if self.kind != "sampling" and getattr(self, name) != SearchConfig.model_fields[name].default:
            yield name, f"has no effect with kind: {self.kind}; set kind: sampling, or leave it out"

    def _of_shortlists(self) -> Iterator[tuple[str, str]]:
        if not self.shortlist and self.shortlist_frequent != SearchConfig.model_fields["shortlist_frequent"].default:
            yield "shortlist_frequent", "has no effect without a shortlist; set shortlist: 20, or leave it out"

    def _of_beams(self) -> Iterator[tuple[str, str]]:
        if self.kind != "beam" and self.coverage_penalty:
            yield "coverage_penalty", f"has no effect with kind: {self.kind}; set kind: beam, or leave it out"

    def _shortest_and_longest(self) -> Iterator[tuple[str, str]]:
        if self.min_length_ratio > self.max_length_ratio:
            yield (
                "min_length_ratio",
                f"is {self.min_length_ratio:g}, above max_length_ratio ({self.max_length_ratio:g}); "
                "lower the one or raise the other",
            )


class RuntimeConfig(Section):
    """The machine."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute; `auto` takes a GPU where there is one."""
    precision: Literal["auto", "fp32", "bf16", "fp16", "int8"] = "auto"
    """Number format of the matrix products; `auto` chooses for the device and says why, `int8` translates on a CPU."""
    kernel: Literal["auto", "reference", "fused", "graphed"] = "auto"
    """Implementation of the recurrent inner loops; a forced choice that cannot be had is an error. `graphed` is `fused`
    with the decoder's recurrence replayed from CUDA graphs, of rounded shapes."""
    threads: Workers = 0
    """CPU threads of this process; 0 leaves the choice to PyTorch."""

    def contradictions(self) -> Iterator[tuple[str, str]]:
        """Half precision with a scaled loss exists on GPUs only."""
        if self.device == "cpu" and self.precision == "fp16":
            yield "precision", "fp16 needs a GPU; set bf16, fp32 or auto"
        if self.device == "cuda" and self.precision == "int8":
            yield "precision", "int8 is for CPUs; set bf16, fp16, fp32 or auto"
