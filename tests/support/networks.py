"""Small networks; every option is a keyword argument."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Literal, TypeVar

import torch
from torch import nn

from nmt.config import schema
from nmt.kernels.packed import PackedGru, run_packed
from nmt.kernels.select import Kernels, reference_kernels
from nmt.kernels.tape import StepKernels
from nmt.model.attention import COVERAGES, SCORES, WINDOWS
from nmt.model.attention.normalizers import NORMALIZERS
from nmt.model.attention.soft import SoftAttention
from nmt.model.cells import CELLS
from nmt.model.encoder import RecurrentLayers
from nmt.model.translator import Translator, Vocabulary
from nmt.model.wiring import WIRINGS
from nmt.model.wiring.base import Wiring

BOS, EOS = 2, 3
REFERENCE = reference_kernels()
VOCABULARY = Vocabulary(source_size=13, target_size=11, bos=BOS)
NO_DROPOUT = schema.DropoutConfig(embedding=0.0, layer=0.0, output=0.0)

INPUT_FEEDING: dict[str, dict[str, object]] = {"luong": {"input_feeding": True}}
"""Options by wiring, so that attention is part of every recurrence but that of `gnmt`."""


def model_options(
    *,
    score: str = "additive",
    window: str = "global",
    normalizer: str = "softmax",
    wiring: str = "bahdanau",
    cell: str = "gru",
    encoder_cell: str | None = None,
    encoder_layers: int = 1,
    decoder_layers: int = 1,
    cell_normalization: bool = False,
    encoder_transitions: int = 1,
    transitions: int = 1,
    first_transitions: int | None = None,
    bidirectional: bool | Literal["first"] = True,
    encoder_residual_from: int | None = None,
    bridge: str = "final",
    readout: str = "tanh",
    lexical: bool = False,
    layer_normalization: bool = False,
    tie: str = "target_output",
    dropout: schema.DropoutConfig = NO_DROPOUT,
    score_options: dict[str, object] | None = None,
    window_options: dict[str, object] | None = None,
    wiring_options: dict[str, object] | None = None,
    heads: int = 1,
    coverage: str = "none",
    alignment: str = "soft",
    top_k: int | None = None,
    residual_from: int | None = None,
    sizes: tuple[int, int, int] = (6, 5, 10),
) -> schema.ModelConfig:
    """Options of a network; `sizes` are those of embeddings, of an encoder layer's direction, and of the decoder.

    One direction is twice as wide: a score may want annotations as wide as the decoder's state.
    """
    embedding_size, encoder_size, decoder_size = sizes
    of_cell = {"layer_normalization": True} if cell_normalization else {}
    return schema.ModelConfig(
        embedding_size=embedding_size,
        tie=tie,
        layer_normalization=layer_normalization,
        dropout=dropout,
        encoder=schema.EncoderConfig(
            cell=CELLS[encoder_cell or cell].options(**of_cell),
            transitions=encoder_transitions,
            hidden_size=encoder_size if bidirectional is True else 2 * encoder_size,
            layers=encoder_layers,
            bidirectional=bidirectional,
            residual_from=encoder_residual_from,
        ),
        decoder=schema.DecoderConfig(
            cell=CELLS[cell].options(**of_cell),
            transitions=transitions,
            first_transitions=first_transitions,
            hidden_size=decoder_size,
            layers=decoder_layers,
            bridge=bridge,
            readout=schema.ReadoutConfig(kind=readout, lexical=lexical),
            residual_from=residual_from,
        ),
        attention=schema.AttentionConfig(
            score=SCORES[score].options(**(score_options or {})),
            window=WINDOWS[window].options(**(window_options or {})),
            normalizer=NORMALIZERS[normalizer].options(),
            wiring=WIRINGS[wiring].options(**(wiring_options or {})),
            heads=heads,
            coverage=COVERAGES[coverage].options(),
            alignment=alignment,
            top_k=top_k,
        ),
    )


def network(
    options: schema.ModelConfig,
    seed: int = 0,
    vocabulary: Vocabulary = VOCABULARY,
    reverse_source: bool = False,
    kernels: Kernels = REFERENCE,
) -> Translator:
    """A network in float64 whose weights, biases included, are far enough from zero to matter."""
    torch.manual_seed(seed)
    translator = Translator(options, vocabulary, kernels, reverse_source).double()
    with torch.no_grad():
        for parameter in translator.parameters():
            parameter.uniform_(-0.5, 0.5)
    return translator.eval()


Network = TypeVar("Network", bound=nn.Module)


def with_steps(network: Network, steps: StepKernels | None) -> Network:
    """The network itself, its recurrences with attention from now on replayed by these steps, or run by autograd."""
    for module in network.modules():
        if isinstance(module, (SoftAttention, Wiring)):
            module.steps = steps
    return network


def with_gru(network: Network, gru: PackedGru | None) -> Network:
    """The network itself, its layers over packed rows from now on run by this layer, or by the library."""
    for module in network.modules():
        if isinstance(module, RecurrentLayers):
            module.kernels = replace(module.kernels, layers=partial(run_packed, gru=gru))
    return network


def sentences(*lengths: int, size: int = 13, seed: int = 0, padding: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Random sentences of these lengths that end in EOS, padded with random ids that must not matter."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(4, size, (len(lengths), max(lengths) + padding), generator=generator)
    lengths_B = torch.tensor(lengths)
    ids[torch.arange(len(lengths)), lengths_B - 1] = EOS
    return ids, lengths_B
