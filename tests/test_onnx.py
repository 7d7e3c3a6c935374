"""Translators as ONNX graphs: the same numbers and the same pieces as PyTorch."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nmt.api.text_translator import load
from nmt.cli import export
from nmt.config import PartOptions, schema
from nmt.data.tokenizer import TokenizerPair
from nmt.kernels.select import reference_kernels
from nmt.model.attention.base import SCORES
from nmt.model.cells import CELLS
from nmt.model.translator import Translator, Vocabulary
from nmt.model.wiring import WIRINGS
from nmt.tasks.translation.onnx_export import NEXT, OnnxGraphs, _whole_layers, unsupported_reasons
from tests.support.commands import Call
from tests.support.models import SOURCES, save_small
from tests.support.networks import BOS, model_options, network

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

SENTENCES = 50
UNSUPPORTED_SCORES = {"location"}
COMBINATIONS = [
    {"cell": cell, "wiring": wiring, "score": score}
    for cell in CELLS
    for wiring in WIRINGS
    for score in SCORES
    if score not in UNSUPPORTED_SCORES
]
SHAPES: list[dict[str, Any]] = [
    {"encoder_layers": 2, "decoder_layers": 2},
    {"encoder_layers": 3, "bidirectional": "first", "encoder_residual_from": 3},
    {"bidirectional": False},
    {"decoder_layers": 3, "residual_from": 2, "encoder_layers": 3},
    {"transitions": 2},
    {"layer_normalization": True},
    {"heads": 2},
    {"coverage": "linguistic"},
    {"coverage": "neural"},
    {"heads": 2, "coverage": "neural"},
    {"readout": "maxout"},
    {"readout": "linear"},
    {"lexical": True},
    {"lexical": True, "heads": 2, "wiring": "conditional"},
    {"tie": "all"},
    *({"bridge": bridge} for bridge in ("backward", "mean", "copy", "zero")),
    {"wiring": "bahdanau", "wiring_options": {"readout_state": "previous", "reset_context": True}},
    {"wiring": "luong", "wiring_options": {"input_feeding": False}},
]


def built(model: schema.ModelConfig, reverse_source: bool = False) -> tuple[Translator, Translator]:
    """A translator with PyTorch's kernels, and the same one to export; float32, its weights far from zero."""
    assert unsupported_reasons(model) == []
    kernels = replace(reference_kernels(), layers=_whole_layers)
    one, other = (
        network(model, vocabulary=Vocabulary(12, 12, BOS), reverse_source=reverse_source, kernels=each).float()
        for each in (reference_kernels(), kernels)
    )
    return one, other


def differences(translator: Translator, folder: Path, source: list[int], target: list[int]) -> list[float]:
    """Largest differences of logits at each step of a given translation."""
    encoder, step = (onnxruntime.InferenceSession(folder / f"{name}.onnx") for name in ("encoder", "step"))
    source_1S = torch.tensor([source])
    with torch.inference_mode():
        state = translator.start(translator.encode(source_1S, torch.tensor([len(source)])))
    names = [output.name for output in encoder.get_outputs()]
    tensors = dict(zip(names, encoder.run(None, {"source": source_1S.numpy()}), strict=True))
    taken = {given.name for given in step.get_inputs()}
    names = [output.name for output in step.get_outputs()]
    largest = []
    for piece in [BOS, *target]:
        tensors["previous"] = np.array([[piece]], np.int64)
        outputs = dict(zip(names, step.run(None, {name: tensors[name] for name in taken}), strict=True))
        with torch.inference_mode():
            state, logits_11V = translator.step(state, torch.tensor([[piece]]))
        largest.append(float((torch.from_numpy(outputs["logits"]) - logits_11V[:, 0]).abs().max()))
        for i, part in enumerate(state.recurrent):
            largest.append(float((torch.from_numpy(outputs[f"{NEXT}state.{i}"]) - part).abs().max()))
        tensors |= {name.removeprefix(NEXT): value for name, value in outputs.items()}
    return largest


def check(model: schema.ModelConfig, folder: Path, reverse_source: bool = False) -> None:
    """Sentences shorter and longer than the one with which the graphs were traced."""
    translator, exported = built(model, reverse_source)
    OnnxGraphs.of(exported).write(folder)
    for source in ([4], [4, 5, 3, 6, 4, 7, 5, 5, 3]):
        assert max(differences(translator, folder, source, [5, 4, 6, 3])) < 1e-5


@pytest.mark.parametrize("options", COMBINATIONS, ids=lambda options: "-".join(options.values()))
def test_graphs_compute_what_pytorch_computes(options: dict[str, Any], tmp_path: Path) -> None:
    layers = {"decoder_layers": 2} if options["wiring"] == "gnmt" else {}
    check(model_options(**options, **layers), tmp_path)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_graphs_of_every_shape_of_network(shape: dict[str, Any], tmp_path: Path) -> None:
    check(model_options(**shape), tmp_path)


def test_a_decoder_with_layer_normalization_in_its_cells(tmp_path: Path) -> None:
    model = model_options(cell_normalization=True)
    check(model.model_copy(update={"encoder": model_options().encoder}), tmp_path)


def test_a_reversed_source(tmp_path: Path) -> None:
    check(model_options(lexical=True), tmp_path, reverse_source=True)


def test_a_folder_translates_greedily_as_the_model_does(tmp_path: Path, tokenizers: TokenizerPair, call: Call) -> None:
    from scripts.translate_onnx import OnnxTranslator

    folder = save_small(tmp_path / "model", tokenizers, updates=100)
    ended = call(export.main, "--model", folder, "--output", tmp_path / "onnx")
    assert (ended.code, ended.output, ended.errors) == (0, f"{tmp_path / 'onnx'}\n", "")
    words = sorted({word for line in SOURCES for word in line.split()})
    lines = [" ".join(words[(3 * i + 7 * j) % len(words)] for j in range(1 + i % 12)) for i in range(SENTENCES - 7)]
    lines += [*SOURCES, ""]
    expected = load(folder, device="cpu").translate(lines, kind="greedy", attention=False)
    translator = OnnxTranslator(tmp_path / "onnx")
    for line, result in zip(lines, expected, strict=True):
        ids = translator.source.encode(line)
        pieces = translator.target.id_to_piece(translator.greedy(ids)) if ids else []
        assert tuple(pieces) == result.pieces
        assert translator.translate(line) == result.text


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("model.attention.window=local_predictive", "model.attention.window"),
        ("model.attention.normalizer=sparsemax", "model.attention.normalizer"),
        ("model.attention.score=location", "model.attention.score"),
        ("model.attention.alignment=latent", "model.attention.alignment"),
        ("model.encoder.transitions=2", "model.encoder.transitions"),
        ("model.encoder.cell={kind: gru, layer_normalization: true}", "model.encoder.cell.layer_normalization"),
    ],
)
def test_what_cannot_be_exported_is_refused_with_its_key(
    override: str, key: str, tmp_path: Path, tokenizers: TokenizerPair, call: Call
) -> None:
    folder = save_small(tmp_path / "model", tokenizers, updates=0, overrides=[override])
    ended = call(export.main, "--model", folder, "--output", tmp_path / "onnx")
    assert ended.code == 2
    assert ended.errors.startswith(f"{folder}: {key}: ")
    assert len(ended.errors.splitlines()) == 1
    assert not (tmp_path / "onnx").exists()


def test_a_document_context_is_refused() -> None:
    model = model_options().model_copy(update={"context": PartOptions(kind="hierarchical")})
    (reason,) = unsupported_reasons(model)
    assert reason.startswith("model.context: ")


def test_the_page_names_all_that_is_refused() -> None:
    page = (Path(__file__).parent.parent / "docs/distribution.md").read_text(encoding="utf-8")
    for key in ("context", "window", "normalizer", "score: location", "alignment: latent", "transitions"):
        assert key in page.split("## ONNX")[1]


def test_a_missing_package_is_one_line(
    checkpoint: Path, call: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    ended = call(export.main, "--model", checkpoint, "--output", tmp_path / "onnx")
    expected = "nmt-export needs the package onnx; install it with pip install 'nmt-attention[onnx]'\n"
    assert (ended.code, ended.errors) == (2, expected)


def test_an_existing_folder_stays(checkpoint: Path, call: Call, tmp_path: Path) -> None:
    ended = call(export.main, "--model", checkpoint, "--output", tmp_path)
    assert (ended.code, ended.errors) == (2, f"{tmp_path}: is there already; name a new folder\n")
