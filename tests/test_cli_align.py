"""nmt-align: alignments, agreement with those made by hand, ensembles, and mistakes."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest
import torch

from nmt.checkpoint import Origin, Snapshot, load_model_files, write_checkpoint
from nmt.cli import align, train, translate
from nmt.config import dump_config
from nmt.data.tokenizer import TokenizerPair
from nmt.tasks.components import read_saved_config
from tests.support.commands import Call, Ended
from tests.support.models import REFERENCES, SOURCES, save_small
from tests.support.training_runs import run_config, write_corpus

ROOT = Path(__file__).parent.parent
LINES = [SOURCES[3], "", f"  {SOURCES[0]}", SOURCES[5]], [REFERENCES[3], "a", REFERENCES[0], REFERENCES[5]]


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """Pairs, one of which has an empty side."""
    return write(tmp_path / "pairs.de", *LINES[0]), write(tmp_path / "pairs.en", *LINES[1])


def write(path: Path, *lines: str) -> Path:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def assert_mistake(ended: Ended, message: str) -> None:
    """One line, no traceback, code 2."""
    assert ended.code == 2, ended
    assert ended.errors.count("\n") == 1, ended.errors
    assert message in ended.errors
    assert ended.output == ""


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_weights_that_are_not_finite_are_refused(
    call: Call, checkpoint: Path, files: tuple[Path, Path], tmp_path: Path, value: float
) -> None:
    """By every command that loads a model, in one line that names the weight."""
    broken = with_weight(checkpoint, tmp_path / "broken", "projection.bias", value)
    message = f"{broken / 'model.safetensors'}: projection.bias has 1 numbers that are not finite; use"
    assert_mistake(call(align.main, "--model", broken, "--source", files[0], "--target", files[1]), message)
    assert_mistake(call(translate.main, "--model", broken, "--input", files[0]), message)


def test_probabilities_that_are_not_finite_are_refused(
    call: Call, checkpoint: Path, files: tuple[Path, Path], tmp_path: Path
) -> None:
    """Of weights that are finite, but too large to compute with."""
    large = with_weight(checkpoint, tmp_path / "large", "projection.bias", 3e38)
    ended = call(align.main, "--model", large, "--source", files[0], "--target", files[1])
    assert_mistake(ended, "line 4: the model gives no finite probability to this pair")


def with_weight(checkpoint: Path, folder: Path, name: str, value: float) -> Path:
    """A copy of a checkpoint, whole, in which the first number of a weight is another one."""
    loaded = load_model_files(checkpoint)
    loaded.tensors[name].flatten()[0] = value
    config = read_saved_config(checkpoint)
    write_checkpoint(folder, Snapshot(loaded.tensors, config, loaded.tokenizers, Origin(step=1, epoch=0)))
    return folder


def links(line: str) -> list[tuple[int, int]]:
    return [(int(source), int(target)) for source, target in (link.split("-") for link in line.split())]


BLANK = "warning: 1 of 4 pairs have an empty side: their alignments are blank\n"


def test_a_line_for_every_pair(call: Call, checkpoint: Path, files: tuple[Path, Path], tmp_path: Path) -> None:
    source, target = files
    arguments = ["--model", checkpoint, "--source", source, "--target", target, "--linking", "argmax"]
    ended = call(align.main, *arguments)
    assert (ended.code, ended.errors) == (0, BLANK)
    found = ended.output.splitlines()
    assert found[1] == ""
    for line, *texts in zip(found, *LINES, strict=True):
        pairs = links(line)
        assert pairs == sorted(pairs)
        if line:
            # Every target word is aligned, with a word of the source.
            assert sorted(position for _, position in pairs) == list(range(len(texts[1].split())))
            assert max(position for position, _ in pairs) < len(texts[0].split())
    assert call(align.main, *arguments, "--output", tmp_path / "out") == Ended(0, "", BLANK)
    assert (tmp_path / "out").read_text(encoding="utf-8") == ended.output


def test_pairs_are_aligned_as_translations_are(call: Call, checkpoint: Path, tmp_path: Path) -> None:
    source, target = write(tmp_path / "a.de", *SOURCES), write(tmp_path / "a.en", *REFERENCES)
    for unit, way in product(("words", "pieces"), ("grow-diag", "argmax")):
        chosen = ["--model", checkpoint, "--linking", way]
        ended = call(align.main, *chosen, "--source", source, "--target", target, "--unit", unit)
        assert ended.errors == ""
        translated = call(translate.main, *chosen, "--input", source, "--alignments", unit)
        assert translated.output == "".join(
            f"{text} ||| {line}\n" for text, line in zip(REFERENCES, ended.output.splitlines(), strict=True)
        )


def test_an_ensemble_aligns(
    call: Call, checkpoint: Path, files: tuple[Path, Path], tmp_path: Path, tokenizers: TokenizerPair
) -> None:
    source, target = files
    friend = save_small(tmp_path / "friend", tokenizers, seed=2, updates=0)
    blind = save_small(tmp_path / "blind", tokenizers, seed=3, attention="cho2014", updates=0)

    def aligned(*models: Path) -> str:
        chosen = [word for model in models for word in ("--model", model)]
        ended = call(align.main, *chosen, "--source", source, "--target", target, "--batch-tokens", 30)
        assert ended.code == 0, ended
        return ended.output

    assert aligned(checkpoint) == aligned(checkpoint, checkpoint) == aligned(blind, checkpoint)
    assert len({aligned(checkpoint), aligned(friend), aligned(checkpoint, friend)}) > 1


def test_a_trained_run_aligns(call: Call, tmp_path: Path) -> None:
    write_corpus(tmp_path)
    (tmp_path / "run.yaml").write_text(dump_config(run_config(tmp_path, "training.max_epochs=1")), encoding="utf-8")
    assert call(train.main, "--config", tmp_path / "run.yaml").code == 0
    source, target = tmp_path / "valid.xx", tmp_path / "valid.yy"
    packed = tmp_path / "packed.gz"
    packed.write_bytes(gzip.compress(source.read_bytes()))
    plain = call(align.main, "--model", tmp_path / "run", "--source", source, "--target", target)
    assert (plain.code, plain.errors, plain.output.count("\n")) == (0, "", 16)
    assert call(align.main, "--model", tmp_path / "run", "--source", packed, "--target", target) == plain
    # Against itself an alignment has no error, and counted from 1 neither.
    kept = write(tmp_path / "gold", *plain.output.splitlines())
    shifted = write(
        tmp_path / "from_one",
        *(" ".join(f"{one + 1}-{other + 1}" for one, other in links(line)) for line in plain.output.splitlines()),
    )
    for gold in (["--gold", kept], ["--gold", shifted, "--gold-from", 1]):
        ended = call(align.main, "--model", tmp_path / "run", "--source", source, "--target", target, *gold, "--json")
        values = json.loads(ended.output)
        assert (values["precision"], values["recall"], values["aer"]) == (1.0, 1.0, 0.0)


def test_agreement_with_gold(call: Call, checkpoint: Path, files: tuple[Path, Path], tmp_path: Path) -> None:
    source, target = files
    arguments = ["--model", checkpoint, "--source", source, "--target", target, "--linking", "argmax"]
    found = [links(line) for line in call(align.main, *arguments).output.splitlines()]
    # Of each pair the first link is sure, the second possible, and one sure link is not found.
    gold, counts = [], [0, 0, 0, 0, 0]
    for pairs in found:
        if not pairs:
            gold.append("")
            continue
        (first, second), words = pairs[:2], len(pairs)
        missed = next((row, 0) for row in range(4) if (row, 0) not in pairs)
        gold.append(f"{first[0]}-{first[1]} {second[0]}p{second[1]} {missed[0]}-{missed[1]}")
        counts = [count + more for count, more in zip(counts, (words, 2, 3, 1, 2), strict=True)]
    total, sure, possible, found_sure, found_possible = counts
    gold_file = write(tmp_path / "gold.talp", *gold)
    out = tmp_path / "out"
    ended = call(align.main, *arguments, "--gold", gold_file, "--json", "--output", out)
    assert (ended.code, ended.errors) == (0, BLANK)
    assert json.loads(ended.output) == {
        "models": [str(checkpoint)],
        "source": str(source),
        "target": str(target),
        "gold": str(gold_file),
        "pairs": 4,
        "precision": found_possible / total,
        "recall": found_sure / sure,
        "aer": pytest.approx(1 - (found_sure + found_possible) / (total + sure)),
        "links": total,
        "sure": sure,
        "possible": possible,
        "found_sure": found_sure,
        "found_possible": found_possible,
    }
    assert [links(line) for line in out.read_text(encoding="utf-8").splitlines()] == found
    table = call(align.main, *arguments, "--gold", gold_file).output.splitlines()
    assert table[0] == f"{gold_file}: 4 pairs"
    assert table[1].split() == ["precision", "recall", "AER", "links", "sure", "possible"]
    assert table[3].split()[:2] == [f"{100 * found_possible / total:.2f}", "50.00"]


def test_nothing_in_nothing_out(call: Call, checkpoint: Path, tmp_path: Path) -> None:
    empty = write(tmp_path / "empty")
    arguments = ["--model", checkpoint, "--source", empty, "--target", empty]
    assert call(align.main, *arguments) == Ended(0, "", "")
    ended = call(align.main, *arguments, "--gold", empty, "--json")
    assert json.loads(ended.output)["aer"] is None


def test_long_pairs(call: Call, checkpoint: Path, files: tuple[Path, Path]) -> None:
    arguments = ["--model", checkpoint, "--source", files[0], "--target", files[1], "--max-length", 5]
    cut = call(align.main, *arguments)
    assert "warning: line 1, source: truncated to 5 of its" in cut.errors
    whole = call(align.main, *arguments, "--overlong", "translate")
    assert whole.errors == BLANK
    assert len(cut.output) < len(whole.output)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--source", "a"], "nmt-align: the following arguments are required: --model, --target"),
        (["--model", "x", "--source", "a", "--target", "b", "--json"], "nmt-align: --json goes with --gold"),
        (["--model", "x", "--source", "a", "--target", "b", "--gold-from", "1"], "--gold-from goes with --gold"),
        (["--model", "x", "--source", "a", "--target", "b", "--gold", "g", "--gold-from", "2"], "invalid choice: 2"),
        (
            ["--model", "x", "--source", "a", "--target", "b", "--gold", "g", "--unit", "pieces"],
            "nmt-align: --gold is about words; leave out --unit pieces",
        ),
        (["--model", "x", "--source", "a", "--target", "b", "--unit", "word"], "--unit: invalid choice: 'word'"),
        (["--model", "x", "--source", "a", "--target", "b", "--godl", "g"], "did you mean --gold?"),
        (["--model", "x", "--source", "no.de", "--target", "/dev/null"], "no.de: no such file"),
        (["--model", "no/model", "--source", "/dev/null", "--target", "/dev/null"], "no/model: no such checkpoint"),
        (["--model", "x", "--source", "/dev/null", "--target", "/dev/null", "--batch-tokens", "0"], "--batch-tokens"),
    ],
)
def test_mistakes_in_arguments(call: Call, arguments: list[str], message: str) -> None:
    assert_mistake(call(align.main, *arguments), message)


def test_mistakes_in_files(
    call: Call, checkpoint: Path, files: tuple[Path, Path], tmp_path: Path, tokenizers: TokenizerPair
) -> None:
    source, target = files
    short = write(tmp_path / "short.en", "a", "b")
    latin = tmp_path / "latin.en"
    latin.write_bytes(b"a\nb\xff\nc\nd\n")
    # Words as they stand in the files: five in the first source, four in the first target.
    gold = {
        "few": ["0-0"],
        "broken": ["0-0 1_1", "", "", ""],
        "outside": ["", "", "0-6 0-7", ""],
    }
    paths = {name: write(tmp_path / name, *lines) for name, lines in gold.items()}
    blind = save_small(tmp_path / "blind", tokenizers, seed=3, attention="cho2014", updates=0)
    for model, other, more, message in (
        (checkpoint, short, [], f"{source} has 4 lines and {short} has 2; line n of one must translate line n"),
        (checkpoint, latin, [], f"{latin}:2: not UTF-8, byte 0xff at position 2"),
        (checkpoint, target, ["--gold", paths["few"]], f"{paths['few']} has 1 lines for 4 pairs; line n holds"),
        (checkpoint, target, ["--gold", paths["broken"]], f"{paths['broken']}:1: '1_1' is no link; write 3-4"),
        (checkpoint, target, ["--gold", paths["outside"]], f"{paths['outside']}:3: 0-7 leaves the pair of"),
        (checkpoint, target, ["--output", source], f"{source}: would be read and written at once"),
        (checkpoint, target, ["--output", tmp_path / "no" / "out"], "cannot be written: No such file or directory"),
        (blind, target, [], f"--model: {blind} has no attention to align by; choose a model that has"),
    ):
        assert_mistake(call(align.main, "--model", model, "--source", source, "--target", other, *more), message)
    assert files[0].read_text(encoding="utf-8").splitlines() == LINES[0]


def test_an_ensemble_has_one_tokenizer(call: Call, checkpoint: Path, files: tuple[Path, Path], tmp_path: Path) -> None:
    write_corpus(tmp_path)
    (tmp_path / "run.yaml").write_text(dump_config(run_config(tmp_path, "training.max_steps=1")), encoding="utf-8")
    assert call(train.main, "--config", tmp_path / "run.yaml").code == 0
    models = ["--model", checkpoint, "--model", tmp_path / "run"]
    ended = call(align.main, *models, "--source", files[0], "--target", files[1])
    assert_mistake(ended, "has another tokenizer than")


def test_help_does_not_wait_for_pytorch() -> None:
    check = (
        "import sys; sys.argv = ['nmt-align', '--help']\n"
        "from nmt.cli.align import main\n"
        "try: main()\n"
        "finally: assert 'torch' not in sys.modules and 'sentencepiece' not in sys.modules"
    )
    ended = subprocess.run([sys.executable, "-c", check], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stderr) == (0, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk(call: Call, checkpoint: Path, files: tuple[Path, Path]) -> None:
    arguments = ["--model", checkpoint, "--source", files[0], "--target", files[1], "--output", "/dev/full"]
    ended = call(align.main, *arguments)
    assert_mistake(ended, "/dev/full: cannot be written: No space left on device")
