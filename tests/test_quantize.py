"""Models whose weights are 8-bit integers on disk."""

from __future__ import annotations

import io
import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor

from nmt.checkpoint import saved_tensors
from nmt.checkpoint.folder import MODEL_FILE, _dequantized, average, load_model_files, with_integers
from nmt.cli import align, evaluate, quantize, score, train, translate
from nmt.cli import average as average_command
from nmt.data.tokenizer import TokenizerPair
from nmt.errors import CheckpointError
from nmt.kernels.linear.quantization import Int8Weight, PrepackedWeight, names_to_prepack
from nmt.model.translator import Translator, Vocabulary
from nmt.tasks.translation.loading import load_model
from tests.support.commands import Call
from tests.support.kernel_params import INT8_PRODUCTS
from tests.support.models import CPU, REFERENCES, SOURCES, save_small
from tests.support.networks import BOS, REFERENCE, model_options
from tests.support.networks import network as build_network
from tests.test_packing import SYSTEMS, forced, system_of

MACHINE = ("--device", "cpu", "--threads", "1")
TEXT = "".join(f"{line}\n" for line in SOURCES).encode()


@pytest.fixture(scope="module")
def integers(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small translator with weights of 8 bits."""
    from nmt.tasks.translation.loading import quantize_model

    folder = tmp_path_factory.mktemp("models") / "integers"
    quantize_model(checkpoint, None, folder)
    return folder


def restored(translator: Translator, other: Translator) -> Translator:
    """Gives the weights to the other translator by way of a file of integers, and prepacks them."""
    saved = with_integers(saved_tensors(translator), names_to_prepack(translator, Int8Weight))
    tensors, scales = _dequantized(safetensors.torch.load(safetensors.torch.save(saved)))
    for name, own in saved_tensors(other).items():
        own.copy_(tensors[name])
    replace(REFERENCE, weights=Int8Weight).prepack(other, scales)
    return other


@pytest.mark.parametrize("name", list(SYSTEMS))
def test_every_system_predicts_from_a_file_of_integers_as_from_memory(name: str) -> None:
    kernels = replace(REFERENCE, weights=Int8Weight)
    one, other = (system_of(*SYSTEMS[name], kernels=kernels) for _ in range(2))
    other = restored(one, other)
    kernels.prepack(one)
    for expected, actual in zip(forced(one), forced(other), strict=True):
        assert torch.equal(actual, expected)


@pytest.mark.parametrize("tie", ["none", "target_output", "source_target", "all"])
def test_all_matrices_are_integers_and_a_tied_one_is_written_once(tie: str) -> None:
    options = model_options(score="additive", wiring="bahdanau", tie=tie, sizes=(24, 24, 40))
    translator = build_network(options, vocabulary=Vocabulary(40, 40, BOS))
    saved = saved_tensors(translator)
    names = names_to_prepack(translator, Int8Weight)
    assert len(set(names)) == len(names)
    # The score's vector has a single output.
    left = [name for name, tensor in saved.items() if tensor.dim() == 2 and len(tensor) > 1 and name not in names]
    assert left == []


@pytest.mark.parametrize("weights", INT8_PRODUCTS)
def test_rows_of_an_integer_weight_and_its_copy_in_another_process_are_the_same_to_the_bit(
    weights: type[PrepackedWeight],
) -> None:
    torch.manual_seed(1)
    weight = weights(torch.randn(400, 40) * torch.logspace(-4, 4, 400).unsqueeze(1))
    rows, chosen = torch.randn(3, 40), torch.arange(0, 400, 3)
    products = torch.nn.functional.linear(rows, weight)
    buffer = io.BytesIO(pickle.dumps(weight))
    copied: Tensor = pickle.load(buffer)
    assert torch.equal(torch.nn.functional.linear(rows, copied), products)
    selected = torch.nn.functional.linear(rows, weight.index_select(0, chosen))
    assert torch.equal(selected, products[:, chosen])
    assert torch.equal(copied.as_subclass(torch.Tensor), weight.as_subclass(torch.Tensor))


def test_the_file_is_about_a_quarter_as_large(tmp_path: Path, tokenizers: TokenizerPair, call: Call) -> None:
    sizes = ["model.embedding_size=128", "model.encoder.hidden_size=128", "model.decoder.hidden_size=256"]
    folder = save_small(tmp_path / "model", tokenizers, updates=0, overrides=sizes)
    ended = call(quantize.main, "--model", folder, "--output", tmp_path / "integers")
    assert (ended.code, ended.errors) == (0, "")
    before, after = ((each / MODEL_FILE).stat().st_size for each in (folder, tmp_path / "integers"))
    assert 0.25 < after / before < 0.27
    assert ended.output.startswith(f"{tmp_path / 'integers'}: ")


@pytest.mark.parametrize("given", [["--precision", "fp32"], ["--precision", "int8"], []], ids=str)
def test_a_file_of_integers_translates_as_the_model_does_with_int8(
    checkpoint: Path, integers: Path, call: Call, given: list[str]
) -> None:
    options = ("--format", "jsonl", "--n-best", "2", *MACHINE)
    expected = call(translate.main, "--model", checkpoint, "--precision", "int8", *options, stdin=TEXT)
    actual = call(translate.main, "--model", integers, *given, *options, stdin=TEXT)
    assert (actual.code, actual.output) == (0, expected.output)
    assert call(translate.main, "--model", checkpoint, *options, stdin=TEXT).output != expected.output


def test_integers_in_an_ensemble_scores_alignments_and_evaluation(
    checkpoint: Path, integers: Path, call: Call, tmp_path: Path
) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_text("\n".join(SOURCES) + "\n", encoding="utf-8")
    target.write_text("\n".join(REFERENCES) + "\n", encoding="utf-8")
    pair = ("--source", source, "--target", target, *MACHINE)
    test_set = ("--source", source, "--reference", target, "--json", *MACHINE)
    for main, options in ((score.main, pair), (align.main, pair), (evaluate.main, test_set)):
        expected = call(main, "--model", checkpoint, "--precision", "int8", *options)
        actual = call(main, "--model", integers, *options)
        assert (expected.code, actual.code) == (0, 0)
        assert actual.output.replace(str(integers), str(checkpoint)) == expected.output
    both = call(translate.main, "--model", integers, "--model", checkpoint, "--scores", *MACHINE, stdin=TEXT)
    alone = call(translate.main, "--model", integers, "--scores", *MACHINE, stdin=TEXT)
    assert both.code == 0
    assert both.output != alone.output


def test_without_integer_products_the_weights_are_the_numbers_that_they_stand_for(integers: Path) -> None:
    loaded = load_model_files(integers)
    translator = load_model(integers, None, CPU).translator  # `weights` is None, as on a GPU
    own = saved_tensors(translator)
    assert loaded.scales
    for name, scale_O in loaded.scales.items():
        assert type(own[name]) is torch.Tensor
        steps = own[name] / scale_O.unsqueeze(1)
        torch.testing.assert_close(steps, steps.round(), rtol=0, atol=1e-4)
        assert steps.abs().max() <= 127.5


def test_integers_are_not_averaged_not_trained_on_and_not_quantized_again(
    integers: Path, call: Call, tmp_path: Path
) -> None:
    instead = "; name the model that they were made from\n"
    again = call(quantize.main, "--model", integers, "--output", tmp_path / "again")
    expected = f"{integers}: its weights are 8-bit integers, which need not be made again{instead}"
    assert (again.code, again.errors) == (2, expected)
    with pytest.raises(CheckpointError, match="8-bit integers, which cannot be averaged"):
        average([integers, integers])
    assert call(average_command.main, integers, "--output", tmp_path / "mean").code == 2
    text = f"""
run: {tmp_path / "run"}
data:
  source_language: de
  target_language: en
  train: {{source: {tmp_path / "s"}, target: {tmp_path / "t"}}}
  validation: {{source: {tmp_path / "s"}, target: {tmp_path / "t"}}}
training: {{start_from: {integers}}}
"""
    for name, lines in (("s", SOURCES), ("t", REFERENCES)):
        (tmp_path / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    (tmp_path / "config.yaml").write_text(text, encoding="utf-8")
    trained = call(train.main, "--config", tmp_path / "config.yaml")
    problem = f"training.start_from: {integers}: its weights are 8-bit integers, which are too coarse to train on"
    assert (trained.code, trained.errors.splitlines()[-1] + "\n") == (2, problem + instead)
    assert not (tmp_path / "again").exists()
    assert not (tmp_path / "mean").exists()


def test_nothing_is_overwritten(checkpoint: Path, call: Call, tmp_path: Path) -> None:
    ended = call(quantize.main, "--model", checkpoint, "--output", tmp_path)
    assert (ended.code, ended.errors) == (2, f"{tmp_path}: is there already; name a new folder\n")
