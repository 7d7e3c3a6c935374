"""The text: corpora, filters and tokenizers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field, SerializeAsAny

from nmt.config.registry import PartOf, PartOptions, Section
from nmt.config.schema.bounds import PathName, Positive, Probability, VocabularySize, Workers

CorpusChoice = Annotated[SerializeAsAny[PartOptions], PartOf("corpus", default_kind="text")]
ValidationChoice = Annotated[SerializeAsAny[PartOptions], PartOf("corpus", default_kind="text", kind_by_key="split")]


class FiltersConfig(Section):
    """Which training pairs are left out; every pair left out is counted and reported."""

    max_length: Positive = 100
    """Longest side in pieces; longer pairs of training and validation are dropped, never lines of a test set."""
    max_ratio: Annotated[float, Field(gt=1.0, le=1e6)] = 9.0
    """Largest ratio of the longer side to the shorter one, in pieces; pairs above it are dropped, as above."""
    empty: Literal["drop", "error"] = "drop"
    """What happens to a training pair with an empty side. The pair goes as a whole: sides never shift."""
    broken_utf8: Literal["error", "drop"] = "error"
    """What happens to a pair with bytes that are not UTF-8."""
    duplicates: Literal["keep", "drop"] = "keep"
    """What happens to a pair that occurred before, both sides alike."""


class DataConfig(Section):
    """The corpora. Paths are relative to the working directory."""

    source_language: str = Field(examples=["de"])
    """Code of the language to translate from, such as `de`."""
    target_language: str = Field(examples=["en"])
    """Code of the language to translate into, such as `en`."""
    train: Annotated[list[CorpusChoice], Field(min_length=1)]
    """One or more parallel corpora, each `{source: FILE, target: FILE}` or another kind with its options.
    A single one needs no list."""
    validation: ValidationChoice
    """The corpus that measures progress and chooses the best checkpoint; `{split: 1000}` takes 1,000 pairs from the
    training text. Its long pairs are left out as `filters` says."""
    test: dict[str, CorpusChoice] = Field(default_factory=dict)
    """Named test sets, for `nmt-eval`."""
    reverse_source: bool = False
    """Whether the encoder reads the words of a source sentence from the last to the first, the end symbol still last
    (Sutskever 2014, section 3.3). Nothing else changes: attention weights, alignments and plots count source positions
    in the order of the text."""
    filters: FiltersConfig = FiltersConfig()
    """Which training pairs are left out."""
    cache: PathName | None = None
    """Folder of the encoded corpora; by default `cache` in the run's folder. Runs may share one."""
    workers: Workers = 0
    """Processes that tokenize; 0 means one a core."""


class SentencePieceConfig(Section):
    """SentencePiece: learned from the training text, or loaded from a file."""

    kind: Literal["bpe", "unigram"] = "bpe"
    """Algorithm that is learned: byte-pair encoding or the unigram language model."""
    vocabulary_size: VocabularySize = 8000
    """Pieces in a vocabulary, the four special ones included."""
    character_coverage: Annotated[float, Field(ge=0.98, le=1.0)] = 1.0
    """Share of the characters of the training text that get pieces of their own; 0.9995 for Chinese or Japanese."""
    byte_fallback: bool = False
    """Spell unknown characters in bytes, so that there is no unknown piece."""
    normalization: Literal["nmt_nfkc", "nfkc", "nmt_nfkc_cf", "nfkc_cf", "identity"] = "nmt_nfkc"
    """SentencePiece's text normalisation before tokenization; `_cf` folds case."""
    user_defined_symbols: list[str] = Field(default_factory=list)
    """Strings that always stay one piece."""
    training_sentences: Positive = 1_000_000
    """Sentences drawn from the training text to learn from."""
    file: PathName | None = None
    """SentencePiece model to load instead of learning one."""


class TokenizerConfig(SentencePieceConfig):
    """SentencePiece of both sides: learned from the training text, or loaded from a file."""

    vocabulary_size: VocabularySize = 8000
    """Pieces in the vocabulary (of each side, where it is not shared), the four special ones included."""
    file: PathName | None = None
    """SentencePiece model to load instead of learning one, for both sides."""
    source_file: PathName | None = None
    """SentencePiece model of the source side; needs `target_file`."""
    target_file: PathName | None = None
    """SentencePiece model of the target side; needs `source_file`."""
    shared: bool = True
    """One vocabulary for both languages, or one for each."""
    sampling: Probability = 0.0
    """Subword regularisation in training: BPE dropout, or the smoothing of unigram sampling; 0 switches it off."""

    def contradictions(self) -> Iterator[tuple[str, str]]:
        """The files are one for both sides, or one for each."""
        if self.source_file is not None and self.target_file is None:
            yield "target_file", "missing beside `source_file`; name the model of the target side too"
        if self.target_file is not None and self.source_file is None:
            yield "source_file", "missing beside `target_file`; name the model of the source side too"
        if self.file is not None and (self.source_file is not None or self.target_file is not None):
            yield "file", "excludes `source_file` and `target_file`; keep the one or the other two"
        elif self.file is not None and not self.shared:
            yield "shared", "must be true with `file`, which serves both sides; or give `source_file` and `target_file`"
        elif self.source_file is not None and self.target_file is not None and self.shared:
            yield "shared", "must be false with `source_file` and `target_file`, which are two vocabularies"
