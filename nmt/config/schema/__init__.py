"""Fixed sections of the YAML, with their default values.

The sections of each task are here, those of all tasks in `sections`.

Parts that are chosen by name (a cell, a score, a schedule, a kind of corpus) are named here by their family alone.
Their options live in their own files (see `registry.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, SerializeAsAny

from nmt.config.registry import PartOf, PartOptions, Section, decided
from nmt.config.schema.sections import (
    AttentionConfig,
    Beam,
    ColumnNumber,
    Count,
    DecoderConfig,
    DropoutConfig,
    EncoderConfig,
    ExperimentConfig,
    Heads,
    LearningConfig,
    ModelConfig,
    NetworkPartOptions,
    PathName,
    Penalty,
    Positions,
    Positive,
    Probability,
    Ratio,
    ReadoutConfig,
    RuntimeConfig,
    Samples,
    ScheduleChoice,
    ScoreChoice,
    Seed,
    SentencePieceConfig,
    Sentences,
    Size,
    StoppingConfig,
    Tokens,
    VocabularySize,
    Weight,
    Workers,
)

CorpusChoice = Annotated[SerializeAsAny[PartOptions], PartOf("corpus", default_kind="text")]
ValidationChoice = Annotated[SerializeAsAny[PartOptions], PartOf("corpus", default_kind="text", kind_by_key="split")]


class FiltersConfig(Section):
    """Filters of training pairs. Every dropped pair is counted and reported."""

    max_length: Positive = 100
    """Longest side in pieces; longer pairs of training and validation are dropped, never lines of a test set."""
    max_ratio: Annotated[float, Field(gt=1.0, le=1e6)] = 9.0
    """Largest ratio of the longer side to the shorter one, in pieces; pairs above it are dropped, as above."""
    empty: Literal["drop", "error"] = "drop"
    """Treatment of a training pair with an empty side. The pair goes as a whole: sides never shift."""
    broken_utf8: Literal["error", "drop"] = "error"
    """Treatment of a pair with bytes that are not UTF-8."""
    duplicates: Literal["keep", "drop"] = "keep"
    """Treatment of a pair that occurred before, both sides alike."""
    copies: Literal["keep", "drop"] = "keep"
    """Treatment of a pair whose sides are equal, but for case, spacing and Unicode's spelling (NFKC). Names, numbers
    and addresses, which have fewer than two words in lower case, are always kept."""
    wrong_language: Literal["keep", "drop"] = "keep"
    """Treatment of a pair with a side in another language than its own; needs the package py3langid."""
    garbled: Literal["keep", "drop"] = "keep"
    """Treatment of a pair with signs of a wrong encoding: replacement or control characters, or `Ã¼` for `ü`."""
    min_letters: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0
    """Smallest share of letters in the characters of a side, spaces left out; 0 keeps all."""
    max_word_length: Positive | None = None
    """Longest word in characters, where the script puts spaces between words; null keeps all."""

    TEXT_RULES: ClassVar = ("copies", "wrong_language", "garbled", "min_letters", "max_word_length")
    """Keys of the rules that look at the text, before it is tokenized."""

    @property
    def text_rules(self) -> dict[str, Any]:
        """The rules on text that are on, by key."""
        rules = {key: getattr(self, key) for key in self.TEXT_RULES}
        return {key: value for key, value in rules.items() if value != type(self).model_fields[key].default}

    @property
    def piece_rules(self) -> dict[str, Any]:
        """The other rules by key."""
        return self.model_dump(exclude=set(self.TEXT_RULES))


class AugmentationConfig(Section):
    """Changes to training pairs, drawn anew in every epoch. Each value is the probability of a pair."""

    upper_case: Probability = 0.0
    """Both sides in upper case, so that an upper-case sentence gets an upper-case translation."""
    title_case: Probability = 0.0
    """A capital at the beginning of every word, on both sides."""
    typos: Probability = 0.0
    """Typing errors in a tenth of the longer source words: letters swapped, left out or doubled. The target stays."""

    def contradictions(self) -> Iterator[tuple[str, str]]:
        if self.upper_case + self.title_case > 1.0:
            yield (
                "title_case",
                "and `upper_case` are above 1 together, and a pair is in one case only; lower one of them",
            )

    @property
    def changes_case(self) -> bool:
        """Whether pairs are read in another case."""
        return self.upper_case > 0.0 or self.title_case > 0.0

    @property
    def is_on(self) -> bool:
        """Whether any pair is changed."""
        return self.changes_case or self.typos > 0.0


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
    training text. `filters` drops its long pairs too."""
    test: dict[str, CorpusChoice] = Field(default_factory=dict)
    """Named test sets, for `nmt-eval`."""
    reverse_source: bool = False
    """Whether the encoder reads the words of a source sentence from the last to the first, the end symbol still last
    (Sutskever 2014, section 3.3). Nothing else changes: attention weights, alignments and plots count source positions
    in the order of the text."""
    filters: FiltersConfig = FiltersConfig()
    augmentation: AugmentationConfig = AugmentationConfig()
    cache: PathName | None = None
    """Folder of the encoded corpora; by default `cache` in the run's folder. Runs may share one."""
    workers: Workers = 0
    """Processes that tokenize; 0 means one a core."""


class TokenizerConfig(SentencePieceConfig):
    """SentencePiece. Learned from the training text of both sides, or loaded from files."""

    vocabulary_size: VocabularySize | None = None
    """Pieces in the vocabulary (of each side, where it is not shared), the four special ones included; of `char` and
    `word` the most frequent ones. Null: 2.6 x the root of the text's characters, 500 to 32,000; of `char` all
    characters, of `word` those that occur twice."""
    file: PathName | None = None
    """SentencePiece model to load instead of learning one, for both sides."""
    source_file: PathName | None = None
    """SentencePiece model of the source side; needs `target_file`."""
    target_file: PathName | None = None
    """SentencePiece model of the target side; needs `source_file`."""
    shared: bool = True
    """One vocabulary for both languages, or one for each."""
    sampling: Probability = 0.0
    """Subword regularisation in training: BPE dropout, or the smoothing of unigram sampling; 0 switches it off.

    With SentencePiece 0.2.2 and 0.2.3 the segmentations that are drawn differ between processes, whatever the seed.
    """

    def contradictions(self) -> Iterator[tuple[str, str]]:
        for rule in (super().contradictions(), self._sampling_needs_subwords()):
            yield from decided(rule)
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

    def _sampling_needs_subwords(self) -> Iterator[tuple[str, str]]:
        if self.sampling and self.kind in ("char", "word"):
            yield "sampling", f"has nothing to draw with kind: {self.kind}; leave it out, or set kind: bpe or unigram"


class EarlyStoppingConfig(StoppingConfig):
    """Early stopping, and the choice of the best checkpoint."""

    metric: Literal["bleu", "chrf", "loss"] = "bleu"


class GuidedAlignmentConfig(Section):
    """Second loss that guides attention by the alignments of corpora (Chen 2016; Liu 2016; Mi 2016)."""

    weight: Ratio = 0.0
    """Weight of the alignment loss, beside 1 for the likelihood; 0 switches it off."""
    decay: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    """Factor of the weight at the end of every epoch."""
    loss: Literal["cross_entropy", "squared_error"] = "cross_entropy"
    """Distance of attention from the links of a target piece."""


ObjectiveChoice = Annotated[SerializeAsAny[PartOptions], PartOf("objective")]


class TrainingConfig(LearningConfig):
    """The optimization."""

    start_from: PathName | None = None
    """Run or checkpoint whose weights and tokenizer training starts with; what `model.context` adds starts anew."""
    start_tokenizer: Literal["keep", "new"] = "keep"
    """With `start_from`: keep its tokenizer, or take a new one as `tokenizer` says. Pieces that both have keep their
    embeddings, others get the mean of the pieces that spell them."""
    batch_tokens: Tokens | None = None
    """Padded tokens of the longer side in a batch, on one device and in one accumulation step. Null: 2.9 x the root of
    the target pieces, 512 to 4,096, in each update."""
    max_epochs: Positive | None = None
    """Passes over the training text after which training ends. Null: `max_steps` ends it; where that is null as well,
    7,000 / the root of the target pieces, 5 to 80."""
    schedule: ScheduleChoice = PartOptions(kind="cosine")
    """Course of the learning rate."""
    label_smoothing: Probability = 0.1
    """Probability mass spread evenly over the vocabulary."""
    ema_decay: Probability = 0.999
    """Decay of the moving average of the weights, used in validation and in checkpoints; 0 switches it off."""
    objective: ObjectiveChoice = PartOptions(kind="likelihood")
    """What an update improves."""
    early_stopping: EarlyStoppingConfig = EarlyStoppingConfig()
    guided_alignment: GuidedAlignmentConfig = GuidedAlignmentConfig()
    """A second loss, for attention, from the `alignments` of corpora."""

    def contradictions(self) -> Iterator[tuple[str, str]]:
        yield from decided(super().contradictions())
        if self.start_tokenizer == "new" and self.start_from is None:
            yield (
                "start_tokenizer",
                "is new, which needs a model to start from; set `start_from`, or leave it out",
            )


class ValidationConfig(Section):
    """Evaluation during training. It is done by the same code as `nmt-eval`."""

    sentences: Positive = 500
    """Sentences of the validation corpus that are translated for BLEU and chrF, from its beginning."""
    beam_size: Beam = 1
    """Beam of these translations."""
    samples: Count = 3
    """Translations that are logged at every validation."""


class SearchConfig(Section):
    """Search for translations. `nmt-translate` and `nmt-eval` may override each of these."""

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
    replace_unknown: Literal["none", "copy", "lexicon"] = "none"
    """Replace each unknown piece of a translation by the source word with the most attention (`copy`), or by the best
    translation of this word in the lexicon of `nmt-lexicon`, if it has one (`lexicon`); needs attention."""
    temperature: Annotated[float, Field(ge=1e-6, le=1_000.0)] = 1.0
    """Divides the logits before sampling."""
    top_k: Count = 0
    """Sample from the k most probable pieces; 0 means all."""
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    """Sample from the smallest set of pieces with this probability (Holtzman 2020)."""
    shortlist: Count = 0
    """Translate with a part of the vocabulary: this many likely translations of each source piece, from the lexicon of
    `nmt-lexicon`, and `shortlist_frequent`; 0 is the whole vocabulary."""
    shortlist_frequent: Count = 100
    """Pieces in every shortlist: the most frequent ones of the training text."""
    batch_tokens: Tokens = 4096
    """Padded source tokens translated at once."""

    def contradictions(self) -> Iterator[tuple[str, str]]:
        sampling = (self._needs_kind("sampling", name) for name in ("temperature", "top_k", "top_p"))
        beam = self._needs_kind("beam", "coverage_penalty")
        rules = (*sampling, self._needs_shortlist(), beam, self._needs_unknown(), self._shortest_and_longest())
        for rule in rules:
            yield from decided(rule)

    def _needs_kind(self, kind: str, name: str) -> Iterator[tuple[str, str]]:
        if self.kind != kind and getattr(self, name) != SearchConfig.model_fields[name].default:
            yield name, f"has no effect with kind: {self.kind}; set kind: {kind}, or leave it out"

    def _needs_shortlist(self) -> Iterator[tuple[str, str]]:
        if not self.shortlist and self.shortlist_frequent != SearchConfig.model_fields["shortlist_frequent"].default:
            yield "shortlist_frequent", "has no effect without a shortlist; set shortlist: 20, or leave it out"

    def _needs_unknown(self) -> Iterator[tuple[str, str]]:
        if self.replace_unknown != "none" and not self.allow_unknown:
            yield "replace_unknown", "has no effect without allow_unknown; allow unknown pieces, or leave it out"

    def _shortest_and_longest(self) -> Iterator[tuple[str, str]]:
        if self.min_length_ratio > self.max_length_ratio:
            yield (
                "min_length_ratio",
                f"is {self.min_length_ratio:g}, above max_length_ratio ({self.max_length_ratio:g}); "
                "lower the one or raise the other",
            )


class TranslationConfig(ExperimentConfig):
    """Config of an experiment in translation."""

    task: Literal["translation"] = "translation"
    """The task: translations, or with `classification` the labels of documents."""
    data: DataConfig
    tokenizer: TokenizerConfig = TokenizerConfig()
    model: ModelConfig = ModelConfig()
    training: TrainingConfig = TrainingConfig()
    validation: ValidationConfig = ValidationConfig()
    search: SearchConfig = SearchConfig()

    @property
    def languages(self) -> tuple[str, ...]:
        return (self.data.source_language, self.data.target_language)

    def contradictions(self) -> Iterator[tuple[str, str]]:
        yield from decided(super().contradictions())
        yield from decided(self._keeps_case())
        if self.model.tie in ("source_target", "all") and not self.tokenizer.shared:
            yield (
                "model.tie",
                f"{self.model.tie} needs one vocabulary for both languages; set tokenizer.shared: true, "
                "or tie: target_output",
            )

    def _keeps_case(self) -> Iterator[tuple[str, str]]:
        folded = self.tokenizer.normalization
        for name in ("upper_case", "title_case"):
            if folded.endswith("_cf") and getattr(self.data.augmentation, name):
                yield (
                    f"data.augmentation.{name}",
                    f"has no effect with tokenizer.normalization: {folded}, which folds case; "
                    f"set tokenizer.normalization: {folded.removesuffix('_cf')}, or leave it out",
                )


CollectionChoice = Annotated[SerializeAsAny[PartOptions], PartOf("collection", default_kind="text")]
LabelledValidationChoice = Annotated[
    SerializeAsAny[PartOptions], PartOf("collection", default_kind="text", kind_by_key="split")
]


class DocumentFiltersConfig(Section):
    """Treatment of long, empty or damaged documents. The first two keys hold wherever the model is used."""

    max_length: Positive | None = None
    """Pieces after which a document is cut off; null reads every document whole."""
    max_sentence_length: Positive = 100
    """Pieces after which a sentence goes on as the next one, so that one long sentence does not hold up a batch."""
    empty: Literal["drop", "error"] = "drop"
    """Treatment of a document without a word."""
    broken_utf8: Literal["error", "drop"] = "error"
    """Treatment of a document with bytes that are not UTF-8."""


class LabelledDataConfig(Section):
    """The documents. Each has a label. Paths are relative to the working directory."""

    language: str = "en"
    """Code of the language, such as `en`: text without sentence boundaries is split into sentences by its rules."""
    train: Annotated[list[CollectionChoice], Field(min_length=1)]
    """One or more collections of labelled documents, each `{docs: FILE, labels: FILE}` or another kind with its
    options. A single one needs no list."""
    validation: LabelledValidationChoice
    """The collection that measures progress and chooses the best checkpoint; `{split: 1000}` takes 1,000 documents from
    the training text."""
    test: dict[str, CollectionChoice] = Field(default_factory=dict)
    """Named test sets, for `nmt-eval`."""
    filters: DocumentFiltersConfig = DocumentFiltersConfig()
    cache: PathName | None = None
    """Folder of the encoded documents; by default `cache` in the run's folder. Runs may share one."""
    workers: Workers = 0
    """Processes that tokenize; 0 means one a core."""


class LevelConfig(EncoderConfig):
    """One level of the hierarchy: a recurrent layer over the parts of a whole, and attention over its annotations."""

    hidden_size: Size = 50
    score: ScoreChoice = PartOptions(kind="additive")
    """Score of each part against a learned query; `mean` weighs all alike."""


class DocumentDropoutConfig(Section):
    """Dropout in training. Each value is a probability."""

    embedding: Probability = 0.2
    """Elements of the word embeddings."""
    word: Probability = 0.0
    """Whole words: their embedding becomes zero."""
    layer: Probability = 0.2
    """Elements between recurrent layers, and of the sentence vectors."""
    output: Probability = 0.2
    """Elements of the document vector, before the labels."""


class ClassifierConfig(Section):
    """The network. Words make sentences, sentences make a document (Yang 2016)."""

    embedding_size: Size = 200
    """Width of the word embeddings."""
    word: LevelConfig = LevelConfig()
    """From the words of a sentence to its vector."""
    sentence: LevelConfig = LevelConfig()
    """From the sentences of a document to its vector."""
    dropout: DocumentDropoutConfig = DocumentDropoutConfig()


class ClassifierStoppingConfig(StoppingConfig):
    """Early stopping, and the choice of the best checkpoint."""

    metric: Literal["accuracy", "macro_f1", "loss"] = "accuracy"
    """Metric of the validation collection that chooses the best checkpoint and decides when to stop."""


class ClassifierTrainingConfig(LearningConfig):
    """The optimization."""

    batch_tokens: Tokens = 4096
    """Pieces of the documents in a batch, on one device and in one accumulation step; there is no padding."""
    label_smoothing: Probability = 0.0
    """Probability mass spread evenly over the labels."""
    early_stopping: ClassifierStoppingConfig = ClassifierStoppingConfig()


class ClassifierValidationConfig(Section):
    """Evaluation during training. It is done by the same code as `nmt-eval`."""

    samples: Count = 3
    """Documents logged at every validation: those whose labels are least probable under the model."""


class ClassificationConfig(ExperimentConfig):
    """Config of an experiment in document classification."""

    task: Literal["classification"] = "classification"
    """The task: labels of documents."""
    data: LabelledDataConfig
    tokenizer: SentencePieceConfig = SentencePieceConfig()
    model: ClassifierConfig = ClassifierConfig()
    training: ClassifierTrainingConfig = ClassifierTrainingConfig()
    validation: ClassifierValidationConfig = ClassifierValidationConfig()

    @property
    def languages(self) -> tuple[str, ...]:
        return (self.data.language,)


TASKS: Mapping[str, type[ExperimentConfig]] = {"translation": TranslationConfig, "classification": ClassificationConfig}
"""The kinds of experiments by what the YAML calls them; one that names no task is of the first kind."""
