"""Translators as ONNX graphs: an encoder of one sentence, and a decoder step of one hypothesis.

Shapes: S source positions, V vocabulary.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from nmt.checkpoint import durable
from nmt.config import TranslationConfig
from nmt.config.schema import ModelConfig
from nmt.errors import CheckpointError, ConfigError, write_errors
from nmt.kernels.packed import Packing, RecurrentStack, State
from nmt.kernels.select import reference_kernels
from nmt.model.attention import Encoded
from nmt.model.attention.base import Prepared
from nmt.model.encoder import RecurrentEncoder
from nmt.model.translator import Translator
from nmt.model.wiring import DecoderState
from nmt.runtime import rng_state, set_rng_state
from nmt.tasks.base import Which, load_checkpoint
from nmt.tasks.translation.loading import vocabulary

ENCODER_FILE, STEP_FILE, OPTIONS_FILE = "encoder.onnx", "step.onnx", "options.json"
OPSET = 17
NEXT = "next."
"""Begins the name of an output of the step that is an input of the next step."""
EXAMPLE_LENGTH = 5
"""Pieces of the sentence with which the graphs are traced; no size of theirs."""
_ONE_ROW = Packing.of(torch.ones(1, dtype=torch.long), torch.device("cpu"))


def unsupported_reasons(model: ModelConfig) -> list[str]:
    """Returns why a network cannot be exported, a line each with the path in the YAML; empty if it can."""
    attention, encoder = model.attention, model.encoder
    steps = "is computed position by position, which a graph of the whole source cannot"
    reasons = {
        "model.context": model.context.kind != "none" and "reads sentences before, and the graphs have one sentence",
        "model.encoder.cell.layer_normalization": getattr(encoder.cell, "layer_normalization", False) and steps,
        "model.encoder.transitions": encoder.transitions > 1 and steps,
        "model.encoder.cell": encoder.cell.kind not in ("gru", "lstm", "rnn") and steps,
        "model.attention.alignment": attention.alignment != "soft" and "mixes probabilities over source positions",
        "model.attention.window": attention.window.kind != "global" and "reads positions that depend on the values",
        "model.attention.normalizer": attention.normalizer.kind != "softmax" and "has an operation of its own",
        "model.attention.score": attention.score.kind == "location" and "has a fixed number of source positions",
    }
    return [f"{path}: {reason}; ONNX has no form of it here" for path, reason in reasons.items() if reason]


class DecoderTensors(NamedTuple):
    """The tensors of a decoder's state, and their names."""

    constant: dict[str, Tensor]
    """Prepared once for a sentence."""
    state: dict[str, Tensor]
    """Of the hypothesis, new in each step."""

    @staticmethod
    def of(state: DecoderState) -> DecoderTensors:
        prepared = state.prepared
        constant = {"memory": prepared.memory, "bias": prepared.bias, "lengths": prepared.lengths}
        if prepared.keys is not None:
            constant["keys"] = prepared.keys
        if state.embedded_BSE is not None:
            constant["embedded"] = state.embedded_BSE
        constant |= {f"covered.{i}": part for i, part in enumerate(prepared.covered)}
        changing = {f"state.{i}": part for i, part in enumerate(state.recurrent)}
        return DecoderTensors(constant, changing | {f"carried.{i}": part for i, part in enumerate(state.carried)})

    def decoder_state(self) -> DecoderState:
        def parts(tensors: dict[str, Tensor], prefix: str) -> tuple[Tensor, ...]:
            return tuple(tensor for name, tensor in tensors.items() if name.startswith(prefix))

        constant = self.constant
        prepared = Prepared(
            constant["memory"],
            constant.get("keys"),
            constant["bias"],
            constant["lengths"],
            parts(constant, "covered."),
        )
        recurrent, carried = parts(self.state, "state."), parts(self.state, "carried.")
        return DecoderState(prepared, recurrent, carried, embedded_BSE=constant.get("embedded"))


class EncoderGraph(nn.Module):
    """Pieces [1, S] of a sentence, its end included, to the tensors of the decoder's first state."""

    def __init__(self, translator: Translator) -> None:
        super().__init__()
        self.translator = translator

    def forward(self, source_1S: Tensor) -> tuple[Tensor, ...]:
        return tuple(value for part in self.tensors(source_1S) for value in part.values())

    def tensors(self, source_1S: Tensor) -> DecoderTensors:
        return DecoderTensors.of(self.translator.start(_encode(self.translator.encoder, source_1S)))


class StepGraph(nn.Module):
    """The piece before [1, 1] and a decoder state to the logits [1, V] of the next piece and the state after it."""

    def __init__(self, translator: Translator, like: DecoderTensors) -> None:
        super().__init__()
        self.translator = translator
        self.names = tuple(like.constant), tuple(like.state)

    def forward(self, previous_11: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
        constant, state = self.names
        given = DecoderTensors(
            dict(zip(constant, tensors[: len(constant)], strict=True)),
            dict(zip(state, tensors[len(constant) :], strict=True)),
        )
        after, logits_11V = self.translator.step(given.decoder_state(), previous_11)
        return logits_11V.squeeze(1), *DecoderTensors.of(after).state.values()


def _encode(encoder: RecurrentEncoder, source_1S: Tensor) -> Encoded:
    """Encodes one sentence; all its positions are at once in every operation."""
    positions = torch.arange(source_1S.shape[1])
    if encoder.reverse_source:
        positions = torch.cat([positions[:-1].flip(0), positions[-1:]])
    inputs_SE = encoder.embedding(source_1S[0].index_select(0, positions))
    outputs_SC, finals = encoder.run(inputs_SE, _ONE_ROW)
    # The order of the pieces, reversed but for the end, is its own inverse.
    memory_SC = encoder.norm(outputs_SC).index_select(0, positions)
    embedded_1SE = inputs_SE.index_select(0, positions).unsqueeze(0) if encoder.keeps_embeddings else None
    mask_1S = torch.ones_like(source_1S, dtype=torch.bool)
    return Encoded(memory_SC.unsqueeze(0), mask_1S, encoder.by_layer(finals, _ONE_ROW), embedded_BSE=embedded_1SE)


def _whole_layers(layers: RecurrentStack, inputs_SX: Tensor, packing: Packing) -> tuple[Tensor, State]:
    """Runs PyTorch's layers over one sentence, as `packed.run_packed` runs them over packed ones."""
    assert isinstance(layers, nn.RNNBase)
    outputs_1SC, final = layers(inputs_SX.unsqueeze(0))
    return outputs_1SC.squeeze(0), final if isinstance(final, tuple) else (final,)


@dataclass(frozen=True)
class OnnxGraphs:
    """A translator whose parts are ready to be exported."""

    encoder: EncoderGraph
    step: StepGraph
    example: DecoderTensors

    @staticmethod
    def of(translator: Translator) -> OnnxGraphs:
        """Returns the graphs of a translator built with `export_kernels`, in evaluation mode, on the CPU."""
        encoder = EncoderGraph(translator)
        with torch.no_grad():
            example = encoder.tensors(torch.zeros(1, EXAMPLE_LENGTH, dtype=torch.long))
        return OnnxGraphs(encoder, StepGraph(translator, example), example)

    def write(self, folder: Path) -> None:
        """Writes both graphs into a folder; raises `CheckpointError` where PyTorch cannot export them."""
        constant, state = (list(part) for part in self.example)
        tensors = self.example.constant | self.example.state
        axes = {name: {axis: "S"} for name, each in tensors.items() if (axis := _source_axis(name, each)) is not None}
        example = (torch.zeros(1, 1, dtype=torch.long), *self.example.constant.values(), *self.example.state.values())
        after = [NEXT + name for name in state]
        next_axes = {NEXT + name: each for name, each in axes.items()}
        _export(
            self.encoder,
            (torch.zeros(1, EXAMPLE_LENGTH, dtype=torch.long),),
            folder / ENCODER_FILE,
            ["source"],
            [*constant, *state],
            {"source": {1: "S"}, **axes},
        )
        _export(
            self.step,
            example,
            folder / STEP_FILE,
            ["previous", *constant, *state],
            ["logits", *after],
            {**axes, **next_axes},
        )


def _source_axis(name: str, tensor: Tensor) -> int | None:
    """Returns the axis of the source positions in a tensor of the example, or None."""
    if name == "lengths" or name.startswith("state."):
        return None
    axis = tensor.dim() - (1 if name == "bias" else 2)
    return axis if tensor.shape[axis] == EXAMPLE_LENGTH else None


def _export(
    graph: nn.Module,
    example: tuple[Tensor, ...],
    file: Path,
    inputs: Sequence[str],
    outputs: Sequence[str],
    axes: dict[str, dict[int, str]],
) -> None:
    names: dict[str, Any] = {"input_names": inputs, "output_names": outputs, "dynamic_axes": axes}
    try:
        with _quiet(), torch.no_grad():
            # The other exporter would unroll the layers of the encoder over the positions of the example.
            torch.onnx.export(graph, example, file, dynamo=False, opset_version=OPSET, **names)
    except (RuntimeError, torch.onnx.errors.OnnxExporterError) as error:
        reason = str(error).strip().splitlines()[0]
        raise CheckpointError(
            f"{file.name}: PyTorch {torch.__version__} cannot export this network: {reason}"
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences warnings about sizes that are constants of the graph, as they are meant to be, and of deprecation."""
    logger = logging.getLogger("torch.onnx")
    before = logger.level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            logger.setLevel(before)


def export_translator(path: Path | str, which: Which, output: Path) -> None:
    """Writes a model as ONNX graphs into a new folder, with its tokenizers and what a greedy search needs to know.

    Raises `CheckpointError` for a model that labels documents or is damaged, and `ConfigError` for a network that
    cannot be exported, or without the package onnx.
    """
    if importlib.util.find_spec("onnx") is None:
        raise ConfigError("nmt-export needs the package onnx; install it with pip install 'nmt-attention[onnx]'")
    refusal = "this model labels documents; nmt-export is for translators"
    loaded, config = load_checkpoint(path, which, TranslationConfig, refusal)
    if reasons := unsupported_reasons(config.model):
        raise ConfigError(*(f"{loaded.path}: {reason}" for reason in reasons))
    build = partial(Translator, config.model, vocabulary(loaded.tokenizers), reverse_source=config.data.reverse_source)
    before = rng_state()
    translator = build(replace(reference_kernels(), layers=_whole_layers))
    set_rng_state(before)
    loaded.load_into(translator)
    target, search = loaded.tokenizers.target, config.search
    options = {
        "source_language": config.data.source_language,
        "target_language": config.data.target_language,
        "source_end": loaded.tokenizers.source.eos,
        "begin": target.bos,
        "end": target.eos,
        "forbidden": [target.bos, target.pad, *([] if search.allow_unknown else [target.unk])],
        "max_length_ratio": search.max_length_ratio,
        "max_length_offset": search.max_length_offset,
    }
    with write_errors(output), durable.new_folder(output) as new:
        OnnxGraphs.of(translator.eval()).write(new)
        loaded.tokenizers.save(new)
        (new / OPTIONS_FILE).write_text(json.dumps(options, indent=2) + "\n", encoding="utf-8")
