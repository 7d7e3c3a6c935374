"""Ranges of values, the sections that all experiments have, and the network of a translator."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Annotated, Literal

from pydantic import Field, SerializeAsAny

from nmt.config.registry import PartOf, PartOptions, Section, decided

# Every number has an upper bound, so that a typing error is not taken for a size.
Positive = Annotated[int, Field(ge=1, le=1_000_000_000)]
Count = Annotated[int, Field(ge=0, le=1_000_000_000)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Size = Annotated[int, Field(ge=1, le=65_536)]
"""Width of a layer."""
Layers = Annotated[int, Field(ge=1, le=100)]
Heads = Annotated[int, Field(ge=1, le=1_024)]
Sentences = Annotated[int, Field(ge=1, le=100)]
"""Sentences of context."""
Positions = Annotated[int, Field(ge=1, le=100_000)]
"""Source positions."""
Samples = Annotated[int, Field(ge=0, le=100_000)]
"""Of the bootstrap."""
Beam = Annotated[int, Field(ge=1, le=1_000)]
Tokens = Annotated[int, Field(ge=1, le=10_000_000)]
"""Tokens in a batch."""
ColumnNumber = Annotated[int, Field(ge=1, le=10_000)]
Workers = Annotated[int, Field(ge=0, le=1_024)]
VocabularySize = Annotated[int, Field(ge=16, le=1_000_000)]
Weight = Annotated[float, Field(gt=0.0, le=1_000.0)]
"""How often a corpus is read in an epoch."""
Penalty = Annotated[float, Field(ge=0.0, le=100.0)]
Ratio = Annotated[float, Field(ge=0.0, le=1_000.0)]
PathName = Annotated[str, Field(min_length=1, max_length=1_000)]
"""Name of a file or folder. An empty one would mean the current folder; folders in each other are made one by one."""
Probability = Annotated[float, Field(ge=0.0, lt=1.0)]

OptimizerChoice = Annotated[SerializeAsAny[PartOptions], PartOf("optimizer")]
ScheduleChoice = Annotated[SerializeAsAny[PartOptions], PartOf("schedule")]


class StoppingConfig(Section):
    """Early stopping, and the choice of the best checkpoint."""

    metric: str
    """Metric of the validation corpus that chooses the best checkpoint and decides when to stop."""
    patience: Count = 0
    """Validations without improvement before training stops; 0 never stops early."""
    min_delta: Penalty = 0.0
    """Smallest change that counts as an improvement."""


class LearningConfig(Section):
    """The optimization."""

    start_from: PathName | None = None
    """Run or checkpoint whose weights and tokenizer training starts with."""
    frozen: list[str] = Field(default_factory=list)
    """Weights that training leaves as they are: parts of the network such as `encoder`, or patterns such as
    `*embedding*`."""
    batch_tokens: Tokens | None = 4096
    accumulation: Annotated[int, Field(ge=1, le=1_000)] = 1
    """Batches whose gradients are added up to one update, on each device."""
    max_steps: Positive | None = None
    """Updates after which training ends."""
    max_epochs: Positive | None = 10
    """Passes over the training text after which training ends; null: `max_steps` ends it."""
    optimizer: OptimizerChoice = PartOptions(kind="adamw")
    """Update rule with its learning rate."""
    schedule: ScheduleChoice = PartOptions(kind="constant")
    """Course of the learning rate."""
    clip_norm: Annotated[float, Field(ge=0.0, le=1e6)] = 1.0
    """Largest norm of the gradient of an update; 0 switches clipping off."""
    label_smoothing: Probability = 0.0
    ema_decay: Probability = 0.0
    """Decay of the moving average of the weights, used in validation and in checkpoints; 0 switches it off."""
    non_finite_limit: Positive = 10
    """Updates in a row with a non-finite loss or gradient that are skipped before training stops."""
    log_every: Positive = 50
    """Updates between two lines of the log."""
    validate_every: Positive | None = None
    """Updates between two validations; by default one at the end of every epoch."""
    save_every: Positive | None = None
    """Updates between two checkpoints besides those at every validation."""
    keep_last: Positive = 3
    """Most recent checkpoints that are kept, besides the best one."""
    early_stopping: StoppingConfig

    def contradictions(self) -> Iterator[tuple[str, str]]:
        default = type(self).model_fields["max_epochs"].default
        if self.max_steps is None and self.max_epochs is None is not default:
            yield "max_epochs", "is null, and so is `max_steps`; set one of them, so that training ends"


class SentencePieceConfig(Section):
    """SentencePiece. Learned from the training text, or loaded from a file."""

    kind: Literal["bpe", "unigram", "char", "word"] = "bpe"
    """What is learned: byte-pair encoding, the unigram language model, the characters or the words of the text."""
    vocabulary_size: VocabularySize | None = None
    """Pieces in a vocabulary, the four special ones included; of `char` and `word` the most frequent ones. Null: 2.6 x
    the root of the text's characters, 500 to 32,000; of `char` all characters, of `word` those that occur twice."""
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

    def contradictions(self) -> Iterator[tuple[str, str]]:
        if self.kind == "word":
            if self.byte_fallback:
                yield "byte_fallback", "spells no words; set it to false, or choose another kind than word"
            if self.user_defined_symbols:
                yield "user_defined_symbols", "need pieces inside of words; leave them out, or choose another kind"


class RuntimeConfig(Section):
    """The machine."""

    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Device to compute on; `auto` takes a GPU of CUDA where there is one, `mps` is that of an Apple computer."""
    precision: Literal["auto", "fp32", "bf16", "fp16", "int8"] = "auto"
    """Number format of the matrix products; `auto` chooses for the device and logs why, `int8` translates on a CPU."""
    kernel: Literal["auto", "reference", "fused", "graphed"] = "auto"
    """Implementation of the inner loops; an unavailable choice is an error. `graphed` is `fused` with whole updates
    replayed from CUDA graphs; `auto` replays them where it can."""
    threads: Workers = 0
    """CPU threads of this process; 0 leaves the choice to PyTorch."""
    deterministic: bool = False
    """Take only algorithms that repeat a run on a GPU to the last bit; they are slower. An operation that has none is
    an error."""

    def contradictions(self) -> Iterator[tuple[str, str]]:
        if self.device == "cpu" and self.precision == "fp16":
            yield "precision", "fp16 needs a GPU; set bf16, fp32 or auto"
        if self.device == "mps" and self.precision not in ("auto", "fp32"):
            yield "precision", f"{self.precision} is not for mps; set fp32 or auto"
        if self.device == "mps" and self.kernel in ("fused", "graphed"):
            yield "kernel", f"{self.kernel} is not for mps; set reference or auto"
        if self.device == "cuda" and self.precision == "int8":
            yield "precision", "int8 is for CPUs; set bf16, fp16, fp32 or auto"


class CardConfig(Section):
    """Statements for the model card, `README.md` in the folder of a checkpoint."""

    licence: Annotated[str, Field(min_length=1, max_length=100)] | None = None
    """Licence of the model, best as an identifier of the Hugging Face hub: `mit`, `apache-2.0`, `cc-by-4.0`."""
    data_licence: Annotated[str, Field(min_length=1, max_length=1_000)] | None = None
    """Licence of the training data, in words."""


class ExperimentConfig(Section):
    """Config of an experiment. `task` chooses the class, and with it the other sections."""

    run: PathName = Field(examples=["runs/example"])
    """Folder of the run: checkpoints, logs and metrics."""
    task: str
    seed: Seed = 1
    """Seed of every random choice."""
    plugins: list[PathName] = Field(default_factory=list)
    """Files of Python that add parts of your own: scores, cells, objectives and others (docs/plugins.md). Paths are
    relative to the working directory."""
    data: Section
    tokenizer: SentencePieceConfig
    model: Section
    training: LearningConfig
    validation: Section
    runtime: RuntimeConfig = RuntimeConfig()
    card: CardConfig = CardConfig()

    def contradictions(self) -> Iterator[tuple[str, str]]:
        if self.runtime.precision == "int8" and not any(self.runtime.contradictions()):
            yield "runtime.precision", "int8 only translates (nmt-translate --precision int8); set auto, bf16 or fp32"

    @property
    def languages(self) -> tuple[str, ...]:
        """Codes of the languages of the text, the source first."""
        raise NotImplementedError


CellChoice = Annotated[SerializeAsAny[PartOptions], PartOf("cell")]
ScoreChoice = Annotated[SerializeAsAny[PartOptions], PartOf("score")]
WindowChoice = Annotated[SerializeAsAny[PartOptions], PartOf("window")]
NormalizerChoice = Annotated[SerializeAsAny[PartOptions], PartOf("normalizer")]
WiringChoice = Annotated[SerializeAsAny[PartOptions], PartOf("wiring")]
CoverageChoice = Annotated[SerializeAsAny[PartOptions], PartOf("coverage")]
ContextChoice = Annotated[SerializeAsAny[PartOptions], PartOf("context")]
Residual = Annotated[int, Field(ge=2, le=100)] | None


class NetworkPartOptions(PartOptions):
    """Options of a part of the network that may conflict with other parts."""

    def conflicts(self, model: ModelConfig) -> Iterable[tuple[str, str]]:
        """Yields conflicts with the rest of the network: (dotted path from the root, what is wrong and what to do)."""
        return ()


class DropoutConfig(Section):
    """Dropout in training. Each value is a probability."""

    embedding: Probability = 0.3
    """Elements of the embeddings, source and target."""
    source_word: Probability = 0.0
    """Whole source words: their embedding becomes zero."""
    target_word: Probability = 0.0
    """Whole words of the decoder's input: their embedding becomes zero."""
    layer: Probability = 0.3
    """Elements between recurrent layers, and of the encoder's output."""
    output: Probability = 0.3
    """Elements of the readout, before the vocabulary projection."""
    attention: Probability = 0.0
    """Elements of the attention weights, as in the program of Vaswani 2017."""


def _without_layer(residual_from: int | None, layers: int) -> Iterator[tuple[str, str]]:
    if residual_from is not None and residual_from > layers:
        yield "residual_from", f"is {residual_from}, but there are only {layers} layers; leave it out"


class EncoderConfig(Section):
    """The recurrent encoder."""

    cell: CellChoice = PartOptions(kind="gru")
    """Recurrent unit: `gru`, `lstm` or `rnn`."""
    hidden_size: Size = 256
    """Units of each layer and direction."""
    layers: Layers = 1
    """Layers, one above the other."""
    transitions: Layers = 1
    """Cells of each layer, one behind the other in each step; all but the first read no input (Miceli Barone 2017,
    section 2.3). With several layers the encoder is BiDeep (section 2.4)."""
    bidirectional: bool | Literal["first"] = True
    """Read in both directions; `first`: the lowest layer does, those above it read forward (Wu 2016, section 3.2). The
    outputs of both directions are 2 x `hidden_size` wide."""
    residual_from: Residual = None
    """First layer, counted from 1, whose input is added to its output (He 2016; 3 in Wu 2016); null: none."""

    @property
    def directions(self) -> tuple[int, ...]:
        """Number of directions of each layer, the lowest first."""
        if self.bidirectional == "first":
            return (2, *[1] * (self.layers - 1))
        return (2 if self.bidirectional else 1,) * self.layers

    @property
    def widths(self) -> tuple[int, ...]:
        """Width of the outputs of each layer, the lowest first."""
        return tuple(self.hidden_size * directions for directions in self.directions)

    @property
    def output_size(self) -> int:
        """Width of the annotations."""
        return self.widths[-1]

    def contradictions(self) -> Iterator[tuple[str, str]]:
        yield from _without_layer(self.residual_from, self.layers)
        if self.bidirectional == "first" and self.residual_from == 2 <= self.layers:
            below, width = self.widths[:2]
            yield (
                "residual_from",
                f"is 2, but with bidirectional: first layer 2 reads {below} features and puts out {width}; "
                + ("set it to 3" if self.layers > 2 else "leave it out"),
            )


class ReadoutConfig(Section):
    """Deep output. From the decoder's state, context and input to the vector before the vocabulary projection."""

    kind: Literal["tanh", "maxout", "linear"] = "tanh"
    """Nonlinearity; `maxout` over pairs as in Bahdanau 2015, A.2.2."""
    size: Size | None = None
    """Width; by default `embedding_size`, which it must equal where the output is tied."""
    lexical: bool | None = None
    """Add the source embeddings, mixed by the attention weights, to what the vocabulary projection reads (Nguyen and
    Chiang 2018). null: wherever that is possible, with attention, a soft alignment and a readout of `embedding_size`.
    Presets have it false."""


class DecoderConfig(Section):
    """The recurrent decoder."""

    cell: CellChoice = PartOptions(kind="gru")
    """Recurrent unit: `gru`, `lstm` or `rnn`."""
    hidden_size: Size = 512
    """Units of each layer."""
    layers: Layers = 1
    """Layers, one above the other."""
    transitions: Layers = 1
    """Cells of each layer, one behind the other in each step; all but the first read no input (Miceli Barone 2017,
    section 2.3)."""
    first_transitions: Layers | None = None
    """The same of the lowest layer; by default `transitions`. With wiring `conditional` it has two at least: attention
    stands behind the first."""
    bridge: Literal["final", "backward", "mean", "context", "copy", "zero"] = "final"
    """Source of the first state. A layer with tanh maps the encoder's last states (`final`), those of its
    backward direction alone (`backward`, Bahdanau 2015, A.2.2), the mean of its annotations (`mean`, Sennrich 2017), or
    the context of score `none` (`context`, Cho 2014, A.1). `copy` takes the encoder's last states unchanged, hidden and
    cell (Sutskever 2014; Luong 2015). `zero` starts from zeros."""
    residual_from: Residual = None
    """First layer, counted from 1, whose input is added to its output (He 2016; 3 in Wu 2016); null: none."""
    readout: ReadoutConfig = ReadoutConfig()

    @property
    def transitions_by_layer(self) -> tuple[int, ...]:
        """Cells of each layer, the lowest first."""
        first = self.transitions if self.first_transitions is None else self.first_transitions
        return (first, *[self.transitions] * (self.layers - 1))

    def contradictions(self) -> Iterator[tuple[str, str]]:
        yield from _without_layer(self.residual_from, self.layers)


class AttentionConfig(Section):
    """Attention to the source: choices that combine."""

    score: ScoreChoice = PartOptions(kind="general")
    """Score of a source position against the decoder's state."""
    window: WindowChoice = PartOptions(kind="global")
    """Source positions that may get weight."""
    normalizer: NormalizerChoice = PartOptions(kind="softmax")
    """From scores to weights. Both levels of `model.context: hierarchical` use it too."""
    wiring: WiringChoice = PartOptions(kind="luong")
    """Order of attention and recurrence in a step, and the use of the context."""
    heads: Heads = 1
    """Attentions side by side, each with its own maps of queries and annotations."""
    coverage: CoverageChoice = PartOptions(kind="none")
    """Input to the score from the attention of earlier steps."""
    alignment: Literal["soft", "latent"] = "soft"
    """What the weights mix: the annotations, to one context (`soft`), or the probabilities of the next piece given each
    of the annotations (`latent`; Wu 2018, Deng 2018)."""
    top_k: Positions | None = None
    """Source positions with the largest weights that a latent alignment mixes (Shankar 2018); null: all, exactly."""

    def contradictions(self) -> Iterator[tuple[str, str]]:
        for rule in (self._only_latent_has_a_top(), self._latent_has_one_head()):
            yield from decided(rule)

    def _only_latent_has_a_top(self) -> Iterator[tuple[str, str]]:
        if self.top_k is not None and self.alignment != "latent":
            yield "top_k", "is for alignment: latent; leave it out"

    def _latent_has_one_head(self) -> Iterator[tuple[str, str]]:
        if self.alignment == "latent" and self.heads > 1:
            yield "heads", f"is {self.heads}, but a latent alignment is to one source position; leave it out"


class ModelConfig(Section):
    """The network."""

    embedding_size: Size = 256
    """Width of the word embeddings."""
    tie: Literal["none", "target_output", "source_target", "all"] = "target_output"
    """Embeddings that are one matrix: target and output, source and target (needs a shared vocabulary), or all."""
    layer_normalization: bool = False
    """Normalise the encoder's outputs, the decoder's first state and the readout (Ba 2016)."""
    encoder: EncoderConfig = EncoderConfig()
    decoder: DecoderConfig = DecoderConfig()
    attention: AttentionConfig = AttentionConfig()
    """Attention to the source; the name of a published system stands for its combination."""
    context: ContextChoice = PartOptions(kind="none")
    """Context from the sentences before, in corpora with documents."""
    dropout: DropoutConfig = DropoutConfig()

    def contradictions(self) -> Iterator[tuple[str, str]]:
        for rule in (
            self._readout_width(),
            self._lexical_model_reads_one_readout(),
            self._shares_of_heads(),
            self._bridge(),
            self._drops_no_alternatives(),
        ):
            yield from decided(rule)

    def _readout_width(self) -> Iterator[tuple[str, str]]:
        readout = self.decoder.readout
        if readout.size is None or readout.size == self.embedding_size:
            return
        problem = f"is {readout.size}, but must equal model.embedding_size ({self.embedding_size}) with"
        if self.tie in ("target_output", "all"):
            yield "decoder.readout.size", f"{problem} tie: {self.tie}; leave it out, or set model.tie to none"
        if readout.lexical:
            yield "decoder.readout.size", f"{problem} lexical: true; leave it out"

    def _lexical_model_reads_one_readout(self) -> Iterator[tuple[str, str]]:
        if self.decoder.readout.lexical and self.attention.alignment == "latent":
            yield (
                "decoder.readout.lexical",
                "is true, but with model.attention.alignment: latent each source position has a readout of its own; "
                "leave it out",
            )

    def _shares_of_heads(self) -> Iterator[tuple[str, str]]:
        heads, hidden_size = self.attention.heads, self.decoder.hidden_size
        if hidden_size % heads:
            yield "attention.heads", f"is {heads}, but must divide model.decoder.hidden_size ({hidden_size})"

    def _drops_no_alternatives(self) -> Iterator[tuple[str, str]]:
        if self.attention.alignment == "latent" and self.dropout.attention:
            yield (
                "dropout.attention",
                f"is {self.dropout.attention:g}, but with model.attention.alignment: latent the weights are "
                "probabilities; leave it out",
            )

    def encoder_layer(self, layer: int) -> int:
        """The encoder layer, counted from 0, whose last state a decoder layer starts from.

        It is the layer of the same number, or the top layer where encoder and decoder have different numbers of layers.
        """
        return layer if self.encoder.layers == self.decoder.layers else self.encoder.layers - 1

    def _bridge(self) -> Iterator[tuple[str, str]]:
        encoder, decoder = self.encoder, self.decoder
        layers = sorted({self.encoder_layer(layer) for layer in range(decoder.layers)})
        if decoder.bridge == "backward" and any(encoder.directions[layer] != 2 for layer in layers):
            yield (
                "decoder.bridge",
                f"is backward, but layer {next(n for n in layers if encoder.directions[n] != 2) + 1} of the encoder "
                "reads forward only; set model.encoder.bidirectional to true, or model.decoder.bridge to final",
            )
        if decoder.bridge != "copy":
            return
        if encoder.cell.kind != decoder.cell.kind:
            yield (
                "decoder.bridge",
                f"is copy, but states of {encoder.cell.kind} cannot be copied into cells of {decoder.cell.kind}; set "
                "model.encoder.cell and model.decoder.cell to the same cell, or model.decoder.bridge to final",
            )
        for layer in layers:
            if encoder.widths[layer] != decoder.hidden_size:
                width = encoder.widths[layer]
                sizes = f"the last state of encoder layer {layer + 1} has {width} features"
                if encoder.directions[layer] == 2:
                    sizes += f" (2 directions of {encoder.hidden_size})"
                yield (
                    "decoder.bridge",
                    f"is copy, but {sizes} and a decoder layer {decoder.hidden_size}; set model.decoder.hidden_size to "
                    f"{width}, or model.decoder.bridge to final",
                )
                return
