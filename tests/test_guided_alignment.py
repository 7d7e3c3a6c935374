"""Guided alignment: the loss of the papers, normalised over all links of an update, and its effect on attention."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from nmt.checkpoint import find
from nmt.config import TranslationConfig, schema
from nmt.data.batching import Batch, BatchStream, Links
from nmt.data.cache import encode_corpora
from nmt.data.readers.corpora import open_corpus
from nmt.errors import ConfigError
from nmt.model.translator import Translator
from nmt.tasks.training import train
from nmt.tasks.translation.loading import load_model
from nmt.training.objectives import (
    MIN_ATTENTION,
    LossSums,
    TranslationObjective,
    alignment_cross_entropy,
    alignment_squared_error,
    loss_scales,
)
from tests.support.models import CPU
from tests.support.networks import model_options, network, sentences
from tests.support.training_runs import CONFIG, final_weights, records, run_config, write_corpus

pytestmark = pytest.mark.usefixtures("threads_and_generators_as_they_were")


def links(*found: tuple[int, int, int, float]) -> Links:
    """Returns links from (row, target, source, share)."""
    row, target, source, share = zip(*found, strict=True)
    positions = (torch.tensor(part) for part in (row, target, source))
    return Links(*positions, torch.tensor(share), target_pieces=len(set(zip(row, target, strict=True))))


# The loss

# One pair of 3 source and 3 target pieces: target 0 is linked with the sources 0 and 1, target 2 with source 2.
WEIGHTS = torch.tensor([[[0.5, 0.25, 0.25], [0.2, 0.2, 0.6], [0.1, 0.8, 0.1]]], dtype=torch.float64)
LINKED = links((0, 0, 0, 0.5), (0, 0, 1, 0.5), (0, 2, 2, 1.0))


def test_cross_entropy_by_hand() -> None:
    # -(0.5 ln 0.5 + 0.5 ln 0.25) - ln 0.1 = 0.34657 + 0.69315 + 2.30259
    assert float(alignment_cross_entropy(WEIGHTS, LINKED)) == pytest.approx(3.34231, abs=1e-5)


def test_squared_error_by_hand() -> None:
    # Target 0: (0.5 - 0.5)^2 + (0.5 - 0.25)^2 + (0 - 0.25)^2 = 0.125
    # Target 2: (0 - 0.1)^2 + (0 - 0.8)^2 + (1 - 0.1)^2 = 0.01 + 0.64 + 0.81 = 1.46
    assert float(alignment_squared_error(WEIGHTS, LINKED)) == pytest.approx(1.585, abs=1e-9)


@pytest.mark.parametrize("loss", [alignment_cross_entropy, alignment_squared_error])
def test_attention_on_the_links_alone_costs_least(loss: Callable[[Any, Links], torch.Tensor]) -> None:
    """Nothing by squared error; the entropy of the links, ln 2 for the two of a piece, by cross-entropy."""
    perfect = torch.tensor([[[0.5, 0.5, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]], dtype=torch.float64)
    least = math.log(2) if loss is alignment_cross_entropy else 0.0
    assert float(loss(perfect, LINKED)) == pytest.approx(least, abs=1e-9)
    # Where a piece without links looks does not matter.
    elsewhere = perfect.clone()
    elsewhere[0, 1] = torch.tensor([0.3, 0.3, 0.4])
    assert float(loss(elsewhere, LINKED)) == pytest.approx(least, abs=1e-9)


def test_a_link_without_weight_costs_the_floor_and_moves_nothing() -> None:
    weights = torch.tensor([[[1.0, 0.0]]], requires_grad=True)
    loss = alignment_cross_entropy(weights, links((0, 0, 0, 0.5), (0, 0, 1, 0.5)))
    loss.backward()
    assert float(loss.detach()) == pytest.approx(-0.5 * math.log(MIN_ATTENTION), rel=1e-6)
    assert weights.grad is not None
    assert weights.grad.tolist() == [[[-0.5, 0.0]]]


@pytest.mark.parametrize("loss", [alignment_cross_entropy, alignment_squared_error])
def test_gradients_of_the_loss_by_finite_differences(loss: Callable[[Any, Links], torch.Tensor]) -> None:
    scores = torch.randn(2, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    some = links((0, 0, 3, 0.5), (0, 0, 1, 0.5), (1, 2, 2, 1.0), (1, 0, 0, 0.25), (1, 0, 3, 0.75))
    assert torch.autograd.gradcheck(lambda x: loss(torch.softmax(x, -1), some), scores)
    # Without an attention to normalise: no link may stand in for another.
    assert torch.autograd.gradcheck(lambda x: loss(x.square() + 0.1, some), scores)


# The objective


def small_batch(with_links: bool = True) -> Batch:
    """Two pairs, padded on both sides."""
    source_BS, source_lengths_B = sentences(5, 3)
    target_BT, target_lengths_B = sentences(3, 4, size=11, seed=1)
    some = links((0, 0, 1, 0.5), (0, 0, 3, 0.5), (0, 1, 0, 1.0), (1, 2, 0, 0.5), (1, 2, 1, 0.5))
    return Batch(
        source_BS, source_lengths_B, target_BT, target_lengths_B, np.arange(2), 7, 1.0, some if with_links else None
    )


def objective(translator: Translator, loss: Any = "cross_entropy") -> TranslationObjective:
    return TranslationObjective(translator, 0.1, schema.GuidedAlignmentConfig(loss=loss))


@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize("window", ["global", "local_monotonic", "local_predictive"])
def test_the_objective_takes_the_mean_over_the_heads_at_the_links(window: str, heads: int) -> None:
    """Against a loop over the links, in the whole sentence; D = 1 leaves some of them outside of the window."""
    width = {} if window == "global" else {"half_width": 1}
    translator = network(model_options(window=window, window_options=width, heads=heads))
    batch = small_batch()
    with torch.no_grad():
        losses = objective(translator)(batch)
    encoded = translator.encode(batch.source_BS, batch.source_lengths_B)
    _, weights = translator.readout(encoded, batch.target_BT)
    assert weights is not None
    dense_BTNS = weights.dense().detach()
    assert dense_BTNS.shape[2] == heads
    assert batch.links is not None
    rows = (part.tolist() for part in (batch.links.row_L, batch.links.target_L, batch.links.source_L))
    expected, outside = 0.0, 0
    for row, target, source, share in zip(*rows, batch.links.share_L.tolist(), strict=True):
        weight = sum(float(dense_BTNS[row, target, head, source]) for head in range(heads)) / heads
        outside += weight == 0.0
        expected -= share * math.log(max(weight, MIN_ATTENTION))
    assert float(losses.trained[1]) == pytest.approx(expected, rel=1e-9)
    assert (outside > 0) == (window == "local_monotonic") or window == "local_predictive"
    assert torch.isfinite(losses.trained[1])


def test_without_links_nothing_changes() -> None:
    translator = network(model_options())
    plain, guided = (objective(translator)(small_batch(with_links)) for with_links in (False, True))
    assert plain.trained[1] is None
    assert torch.equal(plain.trained[0], guided.trained[0])
    assert plain.reported().tolist() == [float(plain.logged[0]), 0.0]
    assert guided.reported().tolist() == [float(guided.logged[0]), guided.trained[1].item()]
    assert torch.equal(plain.loss((0.25, 3.0)), plain.trained[0] * 0.25)


@pytest.mark.parametrize("loss", ["cross_entropy", "squared_error"])
@pytest.mark.parametrize("window", ["global", "local_predictive"])
def test_gradients_of_the_whole_by_finite_differences(loss: str, window: str) -> None:
    """Of likelihood and alignment together, in float64, for some elements of every parameter that attention reaches."""
    translator = network(model_options(window=window, heads=2))
    whole = objective(translator, loss)
    batch, scales = small_batch(), (0.2, 0.7)
    whole(batch).loss(scales).backward()
    checked = 0
    for name, parameter in translator.named_parameters():
        assert parameter.grad is not None
        element = int(parameter.grad.abs().flatten().argmax())
        flat = parameter.data.view(-1)
        values = []
        for step in (1e-5, -2e-5):
            flat[element] += step
            with torch.no_grad():
                values.append(float(whole(batch).loss(scales)))
        flat[element] += 1e-5
        slope = (values[0] - values[1]) / 2e-5
        assert float(parameter.grad.flatten()[element]) == pytest.approx(slope, rel=1e-5, abs=1e-8), name
        checked += 1
    assert checked > 10


# The update


def test_scales_by_hand() -> None:
    # 3 processes average their gradients; 12 pieces, 4 of them with links, weight 0.5: 3 / 12 and 0.5 * 3 / 4.
    assert loss_scales((12, 4), (1.0, 0.5), world=3) == (0.25, 0.375)
    assert loss_scales((12, 0), (1.0, 0.5), world=3) == (0.25, 0.0)
    losses = LossSums((torch.tensor(8.0), torch.tensor(2.0)), (torch.tensor(7.0), torch.tensor(2.0)))
    assert float(losses.loss((0.25, 0.375))) == 2.0 + 0.75


def test_the_weight_decays_by_epochs() -> None:
    options = run_config(Path("nowhere")).training.guided_alignment.model_copy(update={"weight": 0.5, "decay": 0.8})
    guided = TranslationObjective(network(model_options()), 0.1, options)
    assert [guided.weights(epoch) for epoch in range(3)] == [
        (1.0, pytest.approx(weight)) for weight in (0.5, 0.4, 0.32)
    ]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The corpus of reversed letters, and the alignments of its words."""
    write_corpus(tmp_path)
    write_alignments(tmp_path, lambda word, words: words - 1 - word)
    return tmp_path


def write_alignments(folder: Path, target: Callable[[int, int], int]) -> None:
    """Beside both corpora; `target(word, words)` is what a source word is linked with."""
    for name in ("train", "valid"):
        lengths = [len(line.split()) for line in (folder / f"{name}.xx").read_text().splitlines()]
        lines = (" ".join(f"{word}-{target(word, words)}" for word in range(words)) for words in lengths)
        (folder / f"{name}.align").write_text("".join(f"{line}\n" for line in lines))


def aligned(folder: Path, name: str = "train") -> str:
    sides = ", ".join(f"{part}: {folder}/{name}.{suffix}" for part, suffix in (("source", "xx"), ("target", "yy")))
    return f"{{{sides}, alignments: {folder}/{name}.align}}"


def guided(folder: Path, *overrides: str, weight: float = 1.0) -> TranslationConfig:
    return run_config(
        folder,
        f"data.train={aligned(folder)}",
        f"training.guided_alignment.weight={weight}",
        "training.ema_decay=0",
        *overrides,
    )


def attended(config: TranslationConfig, folder: Path) -> float:
    """The share of its attention that a target piece has on its links, the mean over the validation corpus."""
    model = load_model(find(Path(config.run), "last"), None, CPU)
    corpus = open_corpus(guided(folder, f"data.validation={aligned(folder, 'valid')}").data.validation, config.data)
    encoded = encode_corpora([corpus], model.tokenizers, None, folder / "looked-at", 1, False)
    stream = BatchStream(encoded, 1, 1, 0, 1, 1, model.tokenizers, 0.0, with_links=True)
    batch = stream.batch(np.arange(len(encoded)), None)
    assert batch.links is not None
    with torch.inference_mode():
        _, weights = model.translator.readout(
            model.translator.encode(batch.source_BS, batch.source_lengths_B), batch.target_BT
        )
    assert weights is not None
    at_links_L = weights.mean()[batch.links.row_L, batch.links.target_L, batch.links.source_L]
    return float(at_links_L.sum()) / batch.links.target_pieces


FEW = (
    "training.max_steps=100",
    "training.max_epochs=null",
    "training.validate_every=100",
    "training.optimizer={kind: adamw, learning_rate: 1e-2, weight_decay: 0}",
    "validation.sentences=2",
)


@pytest.mark.parametrize("loss", ["cross_entropy", "squared_error"])
def test_attention_follows_the_links_after_few_updates_and_without_them_does_not(folder: Path, loss: str) -> None:
    setting = f"training.guided_alignment.loss={loss}"
    taught = guided(folder, *FEW, setting, f"run={folder}/taught", weight=8.0)
    alone = guided(folder, *FEW, setting, f"run={folder}/alone", weight=0.0)
    train(taught)
    train(alone)
    assert attended(taught, folder) > 0.75
    assert attended(alone, folder) < 0.55
    losses = [record["alignment"] for record in records(taught.run)]
    assert sum(losses[-10:]) < 0.8 * sum(losses[:10])
    assert all("alignment" not in record for record in records(alone.run))


def test_attention_can_be_taught_what_translating_would_not_teach(folder: Path) -> None:
    """Links of the n-th word with the n-th, although the text is reversed."""
    write_alignments(folder, lambda word, words: word)
    config = guided(folder, *FEW, weight=3.0)
    train(config)
    assert attended(config, folder) > 0.6


def test_a_stopped_run_goes_on_to_the_same_bits(folder: Path) -> None:
    """In the middle of an epoch, with everything that the links depend on: sampling, decay, accumulation."""
    everything = (
        "training.guided_alignment.decay=0.5",
        "training.accumulation=2",
        "tokenizer.sampling=0.1",
        "training.max_epochs=null",
    )
    straight = guided(folder, *everything, "training.max_steps=9", f"run={folder}/straight")
    train(straight)
    train(guided(folder, *everything, "training.max_steps=4"))
    train(guided(folder, *everything, "training.max_steps=9"))
    weights = final_weights(straight.run)
    assert all(torch.equal(weight, weights[name]) for name, weight in final_weights(folder / "run").items())
    numbers = ("step", "epoch", "loss", "alignment", "gradient_norm")
    logs = [[[r[name] for name in numbers] for r in records(folder / run)] for run in ("straight", "run")]
    assert logs[0] == logs[1]
    assert {epoch for _, epoch, *_ in logs[0]} >= {1, 2}


def test_the_weight_decays_at_the_end_of_an_epoch_and_not_before(folder: Path) -> None:
    """A weight that nothing is left of after the first epoch: only from there on do the updates differ."""
    norms = {}
    for decay in (1.0, 1e-30):
        config = guided(folder, f"training.guided_alignment.decay={decay}", f"run={folder}/{decay}")
        train(config)
        norms[decay] = [(record["epoch"], record["gradient_norm"]) for record in records(config.run)]
    constant, decayed = norms.values()
    first = sum(epoch == 1 for epoch, _ in constant)
    assert 3 < first < len(constant)
    assert decayed[:first] == constant[:first]
    assert decayed[first] != constant[first]


def test_the_weight_reaches_the_gradient(folder: Path) -> None:
    """Without likelihood in the way: a step of plain SGD moves the weights by the scaled sum of the two gradients."""
    plain = (
        "model.dropout={embedding: 0, layer: 0, output: 0}",
        "training.max_steps=1",
        "training.max_epochs=null",
        "training.optimizer={kind: sgd, learning_rate: 1}",
        "training.schedule=constant",
        "training.clip_norm=0",
    )
    moved = {}
    for weight in (0.0, 1.0, 2.0):
        config = guided(folder, *plain, f"run={folder}/{weight}", weight=weight)
        train(config)
        moved[weight] = final_weights(config.run)
    for name, start in moved[0.0].items():
        once, twice = moved[1.0][name] - start, moved[2.0][name] - start
        torch.testing.assert_close(twice, 2 * once, rtol=1e-3, atol=1e-5)
    assert any(not torch.equal(moved[1.0][name], start) for name, start in moved[0.0].items())


def test_pieces_without_links_do_not_dilute_the_rest(folder: Path) -> None:
    """The log's alignment loss is the mean over the pieces with links, whatever the number of those without."""
    (folder / "train.align").write_text(
        "".join(
            f"{line if number % 3 == 0 else ''}\n"
            for number, line in enumerate((folder / "train.align").read_text().splitlines())
        )
    )
    config = guided(folder, "training.max_steps=1", "training.max_epochs=null", "training.accumulation=4")
    train(config)
    # Attention starts even over at most 7 positions, of which links are with one piece or two.
    assert 0.5 * math.log(5) < records(config.run)[0]["alignment"] < 1.2 * math.log(13)


@pytest.mark.slow
def test_two_ranks_train_as_one(folder: Path) -> None:
    """The alignment loss is normalised by the pieces with links of all ranks, as one process with two batches does."""
    lines = (folder / "train.align").read_text().splitlines()
    # Links are spread unevenly, so that halves with their own mean would weigh otherwise.
    (folder / "train.align").write_text("".join(f"{line if n % 4 else ''}\n" for n, line in enumerate(lines)))
    plain = (
        f"data.train={aligned(folder)}",
        "training.guided_alignment={weight: 2, decay: 0.7}",
        "model.dropout={embedding: 0, layer: 0, output: 0}",
        "training.max_epochs=2",
    )
    alone = run_config(folder, *plain, f"run={folder}/alone", "training.accumulation=2")
    train(alone)
    together = folder / "together.yaml"
    together.write_text(CONFIG.format(folder=folder), encoding="utf-8")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    arguments = ["--config", str(together), *(f"--set={each}" for each in (*plain, f"run={folder}/together"))]
    subprocess.run(
        [*torchrun, "-m", "nmt.cli.train", *arguments],
        check=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    names = ("step", "loss", "alignment", "gradient_norm")
    one, two = ([[r[name] for name in names] for r in records(folder / run)] for run in ("alone", "together"))
    torch.testing.assert_close(torch.tensor(two), torch.tensor(one), rtol=1e-4, atol=1e-5)
    weights, shared = final_weights(folder / "alone"), final_weights(folder / "together")
    for name, weight in weights.items():
        torch.testing.assert_close(shared[name], weight, rtol=1e-3, atol=1e-4)


# Messages to the user


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_the_log_says_what_becomes_of_the_alignments(folder: Path, weight: float) -> None:
    train(guided(folder, "training.max_steps=2", weight=weight))
    log = (folder / "run" / "train.log").read_text()
    assert "alignments: 120 of 120 pairs have links" in log
    unused = "the alignments of data.train are not used: training.guided_alignment.weight is 0"
    assert (unused in log) == (weight == 0.0)
    steps = [line for line in log.splitlines() if ", learning rate" in line]
    assert len(steps) == 2
    for line, record in zip(steps, records(folder / "run"), strict=True):
        assert (f", alignment {record.get('alignment', 0.0):.4g}, learning rate" in line) == (weight > 0.0)


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (
            ["training.guided_alignment.weight=0.5"],
            [
                "--set training.guided_alignment.weight: needs alignments, and no corpus of data.train has any; give "
                "one of them `alignments`, or set the weight to 0"
            ],
        ),
        (
            ["training.guided_alignment.weight=0.5", "model.attention.score=none", "data.train={aligned}"],
            [
                "--set training.guided_alignment.weight: needs attention, and model.attention.score is none; choose "
                "another score, or set the weight to 0"
            ],
        ),
        (["training.guided_alignment.weight=0.5", "data.train=[{aligned}, {{source: a, target: b}}]"], []),
        (["data.train={aligned}"], []),
        (["training.guided_alignment.weight=0.5", "data.train={{kind: tsv, path: a, alignments_column: 3}}"], []),
        (
            ["training.guided_alignment={{weight: -1, decay: 0, loss: mse}}"],
            [
                "--set training.guided_alignment.weight: must be a number from 0 to 1,000, not -1",
                "--set training.guided_alignment.decay: must be a number above 0 up to 1, not 0",
                "--set training.guided_alignment.loss: must be cross_entropy or squared_error, not 'mse'",
            ],
        ),
        (["training.guided_alignment=on"], ["--set training.guided_alignment: must be a mapping of keys, not 'on'"]),
    ],
)
def test_contradictions_are_one_line_each(overrides: list[str], expected: list[str]) -> None:
    settings = [override.format(aligned=aligned(Path("f"))) for override in overrides]
    if not expected:
        run_config(Path("f"), *settings)
        return
    with pytest.raises(ConfigError) as caught:
        run_config(Path("f"), *settings)
    assert list(caught.value.problems) == expected


def test_the_page_of_the_docs_is_read() -> None:
    page = (Path(__file__).parent.parent / "docs" / "guided_alignment.md").read_text(encoding="utf-8")
    shown = yaml.safe_load(page.split("```yaml")[1].split("```")[0])
    settings = {"data.train": shown["data"]["train"], **{f"training.{k}": v for k, v in shown["training"].items()}}
    config = run_config(Path("f"), *(f"{path}={json.dumps(value)}" for path, value in settings.items()))
    assert config.training.guided_alignment.weight == 0.5
    for name in schema.GuidedAlignmentConfig.model_fields:
        assert f"| `{name}` |" in page


def test_both_contradictions_are_told_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        run_config(Path("f"), "training.guided_alignment.weight=1", "model.attention.score=none")
    assert len(caught.value.problems) == 2
