"""The network."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Annotated, Literal

from pydantic import Field, SerializeAsAny

from nmt.config.registry import PartOf, PartOptions, Section, decided
from nmt.config.schema.experiment import Heads, Layers, Probability, Size

CellChoice = Annotated[SerializeAsAny[PartOptions], PartOf("cell")]
ScoreChoice = Annotated[SerializeAsAny[PartOptions], PartOf("score")]
WindowChoice = Annotated[SerializeAsAny[PartOptions], PartOf("window")]
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

    embedding: Probability = 0.2
    """Elements of the embeddings, source and target."""
    source_word: Probability = 0.0
    """Whole source words: their embedding becomes zero."""
    target_word: Probability = 0.0
    """Whole words of the decoder's input: their embedding becomes zero."""
    layer: Probability = 0.2
    """Elements between recurrent layers, and of the encoder's output."""
    output: Probability = 0.2
    """Elements of the readout, before the vocabulary projection."""


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
        """A residual connection needs its layer, with an input as wide as the output."""
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


class DecoderConfig(Section):
    """The recurrent decoder."""

    cell: CellChoice = PartOptions(kind="gru")
    """Recurrent unit: `gru`, `lstm` or `rnn`."""
    hidden_size: Size = 512
    """Units of each layer."""
    layers: Layers = 1
    """Layers, one above the other."""
    bridge: Literal["final", "backward", "mean", "context", "copy", "zero"] = "final"
    """Source of the first state. A layer with tanh maps the encoder's last states (`final`), those of its
    backward direction alone (`backward`, Bahdanau 2015, A.2.2), the mean of its annotations (`mean`, Sennrich 2017), or
    the context of score `none` (`context`, Cho 2014, A.1). `copy` takes the encoder's last states unchanged, hidden and
    cell (Sutskever 2014; Luong 2015). `zero` starts from zeros."""
    residual_from: Residual = None
    """First layer, counted from 1, whose input is added to its output (He 2016; 3 in Wu 2016); null: none."""
    readout: ReadoutConfig = ReadoutConfig()

    def contradictions(self) -> Iterator[tuple[str, str]]:
        """A residual connection needs its layer."""
        yield from _without_layer(self.residual_from, self.layers)


class AttentionConfig(Section):
    """Attention to the source: choices that combine."""

    score: ScoreChoice = PartOptions(kind="additive")
    """Score of a source position against the decoder's state."""
    window: WindowChoice = PartOptions(kind="global")
    """Source positions that may get weight."""
    wiring: WiringChoice = PartOptions(kind="bahdanau")
    """Order of attention and recurrence in a step, and the use of the context."""
    heads: Heads = 1
    """Attentions side by side, each with its own maps of queries and annotations."""
    coverage: CoverageChoice = PartOptions(kind="none")
    """Input to the score from the attention of earlier steps."""


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
        """Sizes of a tied output, of the heads, and of the states that the bridge reads."""
        yield from decided(self._tied_width())
        yield from decided(self._shares_of_heads())
        yield from decided(self._bridge())

    def _tied_width(self) -> Iterator[tuple[str, str]]:
        size = self.decoder.readout.size
        if self.tie in ("target_output", "all") and size is not None and size != self.embedding_size:
            yield (
                "decoder.readout.size",
                f"is {size}, but must equal model.embedding_size ({self.embedding_size}) with tie: {self.tie}; "
                "leave it out, or set model.tie to none",
            )

    def _shares_of_heads(self) -> Iterator[tuple[str, str]]:
        heads, hidden_size = self.attention.heads, self.decoder.hidden_size
        if hidden_size % heads:
            yield "attention.heads", f"is {heads}, but must divide model.decoder.hidden_size ({hidden_size})"

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
