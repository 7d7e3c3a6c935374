"""Attention weights out of nmt-translate and nmt-align: in JSON, and in archives of NumPy; pictures of given pairs."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nmt.cli import align, translate
from nmt.data.tokenizer import TokenizerPair
from nmt.tasks.translation.forced_decoding import forced_attention
from nmt.tasks.translation.loading import System, build_system, load_model
from nmt.visualization.attention_map import END
from tests.support.commands import Call
from tests.support.models import CPU, REFERENCES, SOURCES, save_small

LINES = [SOURCES[0], "", SOURCES[3]]
TARGETS = [REFERENCES[0], "a", REFERENCES[3]]
INPUT = "".join(f"{line}\n" for line in LINES).encode()


@pytest.fixture(scope="module")
def heads(tmp_path_factory: pytest.TempPathFactory, tokenizers: TokenizerPair) -> Path:
    """A small translator with two heads."""
    folder = tmp_path_factory.mktemp("heads") / "model"
    return save_small(folder, tokenizers, attention="{score: scaled_dot, heads: 2}")


@pytest.fixture
def pairs(tmp_path: Path) -> tuple[str, ...]:
    for name, lines in (("de", LINES), ("en", TARGETS)):
        (tmp_path / f"pairs.{name}").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return ("--source", str(tmp_path / "pairs.de"), "--target", str(tmp_path / "pairs.en"))


def rows(value: Any) -> np.ndarray[Any, Any]:
    return np.asarray(value, dtype=np.float64)


def test_translations_have_their_weights(call: Call, heads: Path, tmp_path: Path) -> None:
    command = (translate.main, "--model", heads, "--format", "jsonl", "--n-best", 2)
    ended = call(*command, "--weights", stdin=INPUT)
    assert (ended.code, ended.errors) == (0, "")
    first, blank, third = map(json.loads, ended.output.splitlines())
    assert blank["hypotheses"] == []
    for line in (first, third):
        for each in line["hypotheses"]:
            weights, by_head = rows(each["weights"]), rows(each["heads"])
            assert weights.shape == (len(each["pieces"]) + 1, len(line["source_pieces"]) + 1)
            assert by_head.shape == (2, *weights.shape)
            np.testing.assert_allclose(weights.sum(1), 1.0, atol=1e-4)
            np.testing.assert_allclose(by_head.mean(0), weights, atol=2e-6)
    without = [json.loads(line) for line in call(*command, stdin=INPUT).output.splitlines()]
    for line, other in zip((first, blank, third), without, strict=True):
        for each in line["hypotheses"]:
            del each["weights"], each["heads"]
        assert line == other

    file = tmp_path / "weights.npz"
    text = call(translate.main, "--model", heads, "--weights", file, stdin=INPUT)
    assert text.output == call(translate.main, "--model", heads, stdin=INPUT).output
    with np.load(file) as arrays:
        names = [f"{line}.{name}" for line in (1, 3) for name in ("source", "target", "weights", "heads")]
        assert arrays.files == names
        assert arrays["1.source"].tolist() == [*first["source_pieces"], END]
        assert arrays["1.target"].tolist() == [*first["hypotheses"][0]["pieces"], END]
        assert (arrays["1.weights"].dtype, arrays["1.heads"].shape[0]) == (np.float32, 2)
        assert arrays["1.weights"].shape == (len(arrays["1.target"]), len(arrays["1.source"]))
        np.testing.assert_allclose(arrays["3.heads"].mean(0), arrays["3.weights"], atol=1e-6)
    before = file.read_bytes()
    call(translate.main, "--model", heads, "--weights", file, stdin=INPUT)
    assert file.read_bytes() == before


def test_given_pairs_have_their_weights(call: Call, checkpoint: Path, pairs: tuple[str, ...], tmp_path: Path) -> None:
    """Those of forced decoding; a model of one head has no `heads`."""
    file = tmp_path / "weights.npz"
    ended = call(align.main, "--model", checkpoint, *pairs, "--format", "jsonl", "--weights")
    first, blank, third = map(json.loads, ended.output.splitlines())
    assert call(align.main, "--model", checkpoint, *pairs, "--weights", file).code == 0
    system: System = build_system([load_model(checkpoint, None, CPU)], CPU)
    expected = forced_attention(system, LINES, TARGETS, 4096)
    assert expected[1] is None
    assert (blank["line"], blank["target"], blank["pieces"], blank["alignments"]) == (2, "a", None, None)
    text = call(align.main, "--model", checkpoint, *pairs).output.splitlines()
    with np.load(file) as arrays:
        assert arrays.files == [f"{line}.{name}" for line in (1, 3) for name in ("source", "target", "weights")]
        for line, values, pair in ((1, first, expected[0]), (3, third, expected[2])):
            assert pair is not None
            np.testing.assert_allclose(arrays[f"{line}.weights"], pair.weights_NTS[0], atol=1e-6)
            np.testing.assert_allclose(rows(values["weights"]), pair.weights_NTS[0], atol=2e-6)
            assert values["source_pieces"] == list(pair.source_pieces)
            assert (values["source"], values["target"]) == (LINES[line - 1], TARGETS[line - 1])
            assert values["log_probability"] == pytest.approx(pair.log_probability)
            assert values["alignments"]["words"] == text[line - 1]


def test_given_pairs_are_drawn(call: Call, checkpoint: Path, pairs: tuple[str, ...], tmp_path: Path) -> None:
    plain = call(align.main, "--model", checkpoint, *pairs).output
    page = tmp_path / "page.html"
    ended = call(align.main, "--model", checkpoint, *pairs, "--plot", page)
    assert (ended.code, ended.errors.count("\n"), ended.output) == (0, 1, plain)
    (data,) = re.findall(r"<script[^>]*json[^>]*>(.*?)</script>", page.read_text(encoding="utf-8"), re.DOTALL)
    content = json.loads(data)
    assert [each["name"] for each in content["systems"]] == [str(checkpoint)]
    shown = [(each["line"], each["source"], each["attention"][0]["target"]) for each in content["sentences"]]
    assert shown == [(1, LINES[0], TARGETS[0]), (3, LINES[2], TARGETS[2])]
    links = [" ".join(f"{a}-{b}" for a, b in each["attention"][0]["links"]) for each in content["sentences"]]
    assert links == [plain.splitlines()[0], plain.splitlines()[2]]

    gold = tmp_path / "gold.txt"
    gold.write_text("0-0 1p1\n\n1-0\n")
    assert call(align.main, "--model", checkpoint, *pairs, "--plot", page, "--gold", gold).code == 0
    (data,) = re.findall(r"<script[^>]*json[^>]*>(.*?)</script>", page.read_text(encoding="utf-8"), re.DOTALL)
    given = [each.get("given") for each in json.loads(data)["sentences"]]
    assert given == [[[0, 0, True], [1, 1, False]], [[1, 0, True]]]

    pytest.importorskip("matplotlib")
    folder = tmp_path / "plots"
    assert call(align.main, "--model", checkpoint, *pairs, "--plot", folder).code == 0
    assert sorted(path.name for path in folder.iterdir()) == ["0001.png", "0001.svg", "0003.png", "0003.svg"]


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--weights"], "--weights: goes with --format jsonl, whose objects get the weights; or name a file .npz"),
        (["--weights", "w.json"], "--weights: w.json must end in .npz, as it becomes an archive of NumPy"),
        (
            ["--weights", "w.npz", "--output", "./w.npz"],
            "--weights: w.npz is the file of --output, too; name another",
        ),
        (["--plot", "picture.png"], "--plot: picture.png is one picture; name a folder"),
    ],
)
def test_mistakes_in_arguments(call: Call, pairs: tuple[str, ...], options: list[str], problem: str) -> None:
    commands = [(align.main, *pairs)] + ([(translate.main,)] if options[0] == "--weights" else [])
    for command, *more in commands:
        ended = call(command, "--model", "none", *more, *options)
        assert (ended.code, ended.errors.count("\n")) == (2, 1)
        assert ended.errors.startswith(problem)


def test_no_weights_without_attention(call: Call, tmp_path: Path, tokenizers: TokenizerPair) -> None:
    model = save_small(tmp_path / "none", tokenizers, attention="sutskever2014", updates=0)
    ended = call(translate.main, "--model", model, "--weights", tmp_path / "w.npz", stdin=b"a\n")
    assert (ended.code, ended.errors) == (2, f"--weights: {model} has no attention to write; leave it out\n")
    assert not (tmp_path / "w.npz").exists()
