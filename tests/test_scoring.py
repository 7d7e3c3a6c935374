"""nmt-score: log-probabilities of given pairs, dual scores, and the pairs that are kept."""

from __future__ import annotations

import gzip
import json
import math
from itertools import product
from pathlib import Path

import pytest

from nmt.checkpoint import Origin, Snapshot, load_model_files, write_checkpoint
from nmt.cli import score, translate
from nmt.data.tokenizer import TokenizerPair
from nmt.tasks.translation.forced_decoding import ScoreResult, forced_attention, forced_loss, forced_scores
from nmt.tasks.translation.loading import System, build_system, load_model
from nmt.tasks.translation.scoring import best_rows, dual_score, normalized, score_stream
from tests.support.commands import Call
from tests.support.models import CPU, REFERENCES, SOURCES, save_small, small_config

PAIRS = [f"{source}\t{target}" for source, target in zip(SOURCES, REFERENCES, strict=True)]


def scores_of(output: str) -> list[float]:
    return [float(line) for line in output.splitlines()]


@pytest.fixture(scope="session")
def backward(checkpoint: Path, tokenizers: TokenizerPair, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of the other direction; what it has learned is nonsense."""
    config, loaded = small_config(), load_model_files(checkpoint)
    data = config.data.model_copy(update={"source_language": "en", "target_language": "de"})
    snapshot = Snapshot(loaded.tensors, config.model_copy(update={"data": data}), tokenizers, Origin(step=1, epoch=0))
    folder = tmp_path_factory.mktemp("backward") / "model"
    write_checkpoint(folder, snapshot)
    return folder


def test_scores_are_the_log_probabilities_of_forced_decoding(system: System) -> None:
    sources, targets = [*SOURCES, "", "der hund"], [*REFERENCES, "a dog", ""]
    scores = forced_scores(system, sources, targets, 60)
    assert [pair.is_scored for pair in scores] == [True] * 6 + [False] * 2
    pairs = scores[:6]
    expected = forced_attention(system, SOURCES, REFERENCES, 1000)
    for pair, attention in zip(pairs, expected, strict=True):
        assert attention is not None
        assert pair.log_probability == pytest.approx(attention.log_probability, abs=1e-4)
        assert pair.pieces == attention.target_pieces
        assert sum(pair.piece_log_probabilities) == pytest.approx(pair.log_probability, abs=1e-4)
    loss = forced_loss(system, SOURCES, REFERENCES, 1000)
    assert sum(pair.log_probability for pair in pairs) == pytest.approx(-loss.total, abs=1e-3)
    assert sum(len(pair.pieces) + 1 for pair in pairs) == loss.pieces


def test_a_model_without_attention_scores_too(tmp_path: Path, tokenizers: TokenizerPair) -> None:
    folder = save_small(tmp_path / "model", tokenizers, attention="{score: none}", updates=1)
    plain = build_system([load_model(folder, None, CPU)], CPU)
    (pair,) = forced_scores(plain, SOURCES[:1], REFERENCES[:1], 100)
    assert math.isfinite(pair.log_probability)


def test_normalization_and_dual_scores_by_hand() -> None:
    pair = ScoreResult("", "abcde", -12.0, ("a", "b", "cde"))
    assert [normalized(pair, per) for per in ("piece", "character", "sentence")] == [-3.0, -2.0, -12.0]
    # Both probable, one of them improbable, both improbable.
    assert [dual_score(-1.0, -1.0), dual_score(-1.0, -3.0), dual_score(-3.0, -1.0)] == [-1.0, -4.0, -4.0]
    assert dual_score(-3.0, -3.0) == -3.0


def test_the_best_rows() -> None:
    scores = [-3.0, -1.0, -math.inf, -2.0, -1.0, -2.0]
    assert best_rows(scores, 0.5).tolist() == [False, True, False, True, True, False]
    assert best_rows(scores, 1.0).tolist() == [True, True, False, True, True, True]
    assert best_rows(scores, 0.01).tolist() == [False] * 6
    assert best_rows([], 0.5).tolist() == []


def test_lines_in_lines_out(call: Call, checkpoint: Path, system: System, tmp_path: Path) -> None:
    """In order, whatever the window and the batches; from every kind of input."""
    lines = [*PAIRS, "\ta dog", *PAIRS[::-1], "der hund\t", f"{PAIRS[0]}\tmore\tcolumns"]
    text = "".join(f"{line}\n" for line in lines).encode()
    ended = call(score.main, "--model", checkpoint, "--window", 4, "--batch-tokens", 40, stdin=text)
    assert ended.code == 0
    assert ended.errors == "warning: 2 of 15 pairs have an empty side: they have no score\n"
    expected = [
        pair.per_piece
        for pair in forced_scores(
            system, [line.split("\t")[0] for line in lines], [line.split("\t")[1] for line in lines], 1000
        )
    ]
    assert scores_of(ended.output) == pytest.approx(expected, abs=2e-4)
    assert ended.output.splitlines()[6] == "-inf"
    (tmp_path / "pairs.tsv.gz").write_bytes(gzip.compress(text))
    for side, name in enumerate(("de", "en")):
        (tmp_path / name).write_text("".join(line.split("\t")[side] + "\n" for line in lines), encoding="utf-8")
    output = tmp_path / "scores"
    for source in (["--input", tmp_path / "pairs.tsv.gz"], ["--source", tmp_path / "de", "--target", tmp_path / "en"]):
        call(score.main, "--model", checkpoint, *source, "--output", output)
        assert scores_of(output.read_text()) == pytest.approx(scores_of(ended.output), abs=2e-4)


def test_json_has_all_numbers(call: Call, checkpoint: Path, backward: Path, tokenizers: TokenizerPair) -> None:
    reverse = build_system([load_model(backward, None, CPU)], CPU)
    stdin = f"{PAIRS[0]}\n\tx\n".encode()
    arguments = ("--model", checkpoint, "--reverse", backward, "--format", "jsonl", "--per", "character")
    ended = call(score.main, *arguments, stdin=stdin)
    first, blank = map(json.loads, ended.output.splitlines())
    (there,) = forced_scores(build_system([load_model(checkpoint, None, CPU)], CPU), SOURCES[:1], REFERENCES[:1], 100)
    (back,) = forced_scores(reverse, REFERENCES[:1], SOURCES[:1], 100)
    assert first["log_probability"] == pytest.approx(there.log_probability, abs=1e-4)
    assert (first["pieces"], first["characters"]) == (len(there.pieces) + 1, len(REFERENCES[0]))
    assert first["reverse"]["log_probability"] == pytest.approx(back.log_probability, abs=1e-4)
    assert (first["reverse"]["pieces"], first["reverse"]["characters"]) == (len(back.pieces) + 1, len(SOURCES[0]))
    forward = there.log_probability / (len(REFERENCES[0]) + 1)
    backwards = back.log_probability / (len(SOURCES[0]) + 1)
    assert first["score"] == pytest.approx(dual_score(forward, backwards), abs=1e-4)
    assert (first["line"], blank["line"], blank["score"], blank["log_probability"]) == (1, 2, None, None)
    assert blank["reverse"] is None


def test_misaligned_pairs_have_low_scores(system: System) -> None:
    """Of right and wrong pairs that a model ranks, nearly all wrong ones are below the right ones."""
    rows = list(product(range(6), range(6)))
    lines = [f"{SOURCES[source]}\t{REFERENCES[target]}" for source, target in rows]
    scored = [pair for window in score_stream(system, None, lines, 1000) for pair in window]
    assert [pair.line for pair in scored] == lines
    right, wrong = (
        [pair.score for pair, (source, target) in zip(scored, rows, strict=True) if (source == target) is same]
        for same in (True, False)
    )
    auc = sum(a > b for a in right for b in wrong) / (len(right) * len(wrong))
    assert auc > 0.95


def test_the_best_pairs_are_kept_as_they_stand(call: Call, checkpoint: Path, tmp_path: Path) -> None:
    wrong = [f"{SOURCES[row]}\t{REFERENCES[row - 1]}" for row in range(6)]
    lines = [line for pair in zip(PAIRS, wrong, strict=True) for line in pair]
    lines[2] += "\t third column "
    (tmp_path / "pairs.tsv").write_text("".join(f"{line}\n" for line in [*lines, "\t", "\t"]), encoding="utf-8")
    arguments = ("--model", checkpoint, "--output", tmp_path / "kept.tsv", "--keep", 6 / 14, "--window", 5)
    ended = call(score.main, *arguments, "--input", tmp_path / "pairs.tsv")
    assert ended.code == 0
    assert "6 of 14 pairs kept, with scores of -" in ended.errors
    assert (tmp_path / "kept.tsv").read_text(encoding="utf-8").splitlines() == lines[::2]
    # Of two files; a TAB in a line would be another column.
    (tmp_path / "de").write_text("".join(f"{line.split(chr(9))[0]}\n" for line in lines).replace(" .", "\t."))
    (tmp_path / "en").write_text("".join(f"{line.split(chr(9))[1]}\n" for line in lines))
    ended = call(
        score.main, *arguments[:-2], "--source", tmp_path / "de", "--target", tmp_path / "en", "--per", "sentence"
    )
    kept = (tmp_path / "kept.tsv").read_text(encoding="utf-8").splitlines()
    assert len(kept) == round(6 / 14 * 12)
    assert set(kept) <= {"\t".join(line.split("\t")[:2]) for line in lines}


def test_mistakes(call: Call, checkpoint: Path, backward: Path, tmp_path: Path) -> None:
    ended = call(score.main, "--model", checkpoint, "--window", 1, stdin=f"{PAIRS[0]}\nonly\n".encode())
    assert (ended.code, ended.output.count("\n")) == (2, 1)
    assert ended.errors == "standard input:2: one column; source and target are separated by a TAB\n"
    (tmp_path / "a").write_text("x\ny\n")
    (tmp_path / "b").write_text("x\n")
    for source, target in (("a", "b"), ("b", "a")):
        ended = call(score.main, "--model", checkpoint, "--source", tmp_path / source, "--target", tmp_path / target)
        assert ended.code == 2
        assert ended.errors == (
            f"{tmp_path}/b ends before line 2 of {tmp_path}/a; line n of one must translate line n of the other\n"
        )
    ended = call(score.main, "--model", checkpoint, "--reverse", checkpoint, stdin=b"a\tb\n")
    assert ended.errors == f"--reverse: {checkpoint} translates from de to en, not from en to de\n"
    ended = call(score.main, "--model", backward, "--reverse", backward, stdin=b"a\tb\n")
    assert ended.errors.endswith("translates from en to de, not from de to en\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--source", "a"], "--source and --target go together"),
        (["--source", "a", "--target", "b", "--input", "c"], "--input is instead of --source and --target"),
        (["--keep", "0.5"], "--keep reads the pairs twice; name files: --input, or --source and --target"),
        (["--keep", "0.5", "--input", "c", "--format", "jsonl"], "--keep writes pairs; leave out --format jsonl"),
        (["--keep", "90"], "--keep: must be a number above 0 up to 1, not '90'"),
    ],
)
def test_arguments(call: Call, arguments: list[str], message: str) -> None:
    ended = call(score.main, "--model", "m", *arguments)
    assert (ended.code, ended.errors) == (2, f"nmt-score: {message}\n")
    assert call(translate.main, "--model", "m", "--keep", "1").code == 2
