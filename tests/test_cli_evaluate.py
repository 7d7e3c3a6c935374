"""nmt-eval: test sets, tables, JSON, baselines, and mistakes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from nmt.cli import evaluate
from nmt.data.tokenizer import TokenizerPair
from nmt.tasks.translation import evaluation
from tests.support.commands import Call, Ended
from tests.support.models import REFERENCES, SOURCES, UPDATES, save_small


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """A test set."""
    source, reference = tmp_path / "test.de", tmp_path / "test.en"
    source.write_text("\n".join(SOURCES) + "\n", encoding="utf-8")
    reference.write_text("\n".join(REFERENCES) + "\n", encoding="utf-8")
    return source, reference


@pytest.fixture
def configured(files: tuple[Path, Path], tmp_path: Path, tokenizers: TokenizerPair) -> Path:
    """A model whose config names two test sets."""
    source, reference = files
    whole = f"{{source: {source}, target: {reference}}}"
    half = f"{{source: {source}, target: {reference}, limit: 3}}"
    return save_small(tmp_path / "configured", tokenizers, tests=f"{{whole: {whole}, half: {half}}}")


@pytest.fixture
def weak(tmp_path: Path, tokenizers: TokenizerPair) -> Path:
    """A model that has learned too little to be right whatever the search."""
    return save_small(tmp_path / "weak", tokenizers, updates=UPDATES // 10)


def assert_mistake(ended: Ended, message: str) -> None:
    """One line, no traceback, code 2."""
    assert ended.code == 2, ended
    assert ended.errors.count("\n") == 1, ended.errors
    assert message in ended.errors
    assert ended.output == ""


def test_tables(call: Call, checkpoint: Path, files: tuple[Path, Path]) -> None:
    source, reference = files
    ended = call(evaluate.main, "--model", checkpoint, "--source", source, "--reference", reference, "--samples", 20)
    assert (ended.code, ended.errors) == (0, "")
    lines = ended.output.splitlines()
    assert lines[0] == f"{source}: 6 sentences"
    assert lines[1].startswith("loss of the references 0.")
    rows = {line.split()[0]: line for line in lines[4:]}
    assert list(rows) == ["BLEU", "chrF2", "TER"]
    assert rows["BLEU"].split()[1:5] == ["100.00", "100.00", "to", "100.00"]
    assert "tok:13a" in rows["BLEU"]
    assert "bs:20" in rows["BLEU"]


def test_json_and_kept_translations(call: Call, checkpoint: Path, files: tuple[Path, Path], tmp_path: Path) -> None:
    source, reference = files
    ended = call(
        evaluate.main,
        *("--model", checkpoint, "--source", source, "--reference", reference, reference, "--json", "--samples", 0),
        *("--metrics", "bleu", "--output", tmp_path / "kept.en", "--beam-size", 2),
    )
    found = json.loads(ended.output)
    assert found["models"] == [str(checkpoint)]
    assert found["search"]["beam_size"] == 2
    (values,) = found["sets"]
    assert values["sentences"] == 6
    assert list(values["scores"]) == ["bleu"]
    assert values["scores"]["bleu"]["confidence"] is None
    assert "nrefs:2" in values["scores"]["bleu"]["signature"]
    assert 1.0 < values["perplexity"] < 2.0
    assert "comparisons" not in values
    assert (tmp_path / "kept.en").read_text(encoding="utf-8").splitlines() == REFERENCES


def test_by_length(call: Call, checkpoint: Path, weak: Path, files: tuple[Path, Path], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    source, reference = files
    test_set = ("--source", source, "--reference", reference, "--samples", 20, "--metrics", "bleu")
    picture = tmp_path / "lengths.svg"
    ended = call(evaluate.main, "--model", checkpoint, *test_set, "--baseline", weak, "--by-length", picture)
    assert (ended.code, ended.errors) == (0, "")
    heading, columns, _, *rows = ended.output.split("BLEU by the length")[1].splitlines()
    assert heading == " of the source sentence"
    assert columns.split("  ")[0] == "source words"
    assert sum(int(row.split()[1]) for row in rows) == 6
    assert all(row.split()[3] == "100.00" for row in rows)
    assert f">{weak}<" in picture.read_text()
    ended = call(evaluate.main, "--model", checkpoint, *test_set, "--by-length", "--json")
    groups = json.loads(ended.output)["sets"][0]["by_length"]
    assert [str(group["sentences"]) for group in groups] == [row.split()[1] for row in rows]
    assert all(group["system"]["value"] == pytest.approx(100.0) and group["baseline"] is None for group in groups)


def test_sets_of_the_config(call: Call, configured: Path, tmp_path: Path) -> None:
    def names(*arguments: object) -> list[tuple[str, int]]:
        ended = call(evaluate.main, "--model", configured, "--json", "--samples", 0, *arguments)
        return [(found["name"], found["sentences"]) for found in json.loads(ended.output)["sets"]]

    assert names("--output", tmp_path / "kept") == [("whole", 6), ("half", 3)]
    assert names("--test-set", "half") == [("half", 3)]
    assert (tmp_path / "kept" / "half.en").read_text(encoding="utf-8").splitlines() == REFERENCES[:3]
    assert (tmp_path / "kept" / "whole.en").read_text(encoding="utf-8").splitlines() == REFERENCES


def test_baselines(call: Call, checkpoint: Path, files: tuple[Path, Path], tmp_path: Path) -> None:
    source, reference = files
    worse = tmp_path / "worse.en"
    worse.write_text("\n".join(["a", *REFERENCES[1:]]) + "\n", encoding="utf-8")
    common = ["--model", checkpoint, "--source", source, "--reference", reference, "--samples", 20]
    (found,) = json.loads(call(evaluate.main, *common, "--baseline", worse, "--json").output)["sets"]
    assert found["comparisons"]["bleu"]["delta"] > 0
    ended = call(evaluate.main, *common, "--baseline", checkpoint)
    assert ended.code == 0
    assert f"compared with {checkpoint} by paired bootstrap" in ended.output
    assert "+0.00" in ended.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "x", "--source", "a"], "nmt-eval: --source and --reference go together"),
        (["--model", "x", "--langpair", "de-en"], "nmt-eval: --langpair goes with --sacrebleu"),
        (["--model", "x", "--sarcebleu", "wmt17"], "unknown option --sarcebleu; did you mean --sacrebleu?"),
        (["--model", "x", "--test-set", "a", "--sacrebleu", "b"], "not allowed with argument --test-set"),
        (["--model", "x", "--source", "no.de", "--reference", "/dev/null"], "no.de: no such file"),
        (["--model", "x", "--metrics", "rouge"], "--metrics: invalid choice: 'rouge'"),
        (
            ["--model", "x", "--set", "test_2016_flickr"],
            "nmt-eval: unknown option --set; a test set of the model's config is --test-set NAME",
        ),
        (["--model", "no/model"], "no/model: no such checkpoint"),
    ],
)
def test_mistakes_in_arguments(call: Call, arguments: list[str], message: str) -> None:
    assert_mistake(call(evaluate.main, *arguments), message)


def test_a_place_that_cannot_be_written_to_is_noticed_before_translating(
    call: Call,
    checkpoint: Path,
    configured: Path,
    files: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(evaluation, "evaluate", lambda *_, **__: pytest.fail("translated first"))
    source, reference = files
    one_set = ["--model", checkpoint, "--source", source, "--reference", reference]
    missing = tmp_path / "missing" / "kept.en"
    ended = call(evaluate.main, *one_set, "--output", missing)
    assert_mistake(ended, f"--output: {missing} cannot be written: No such file or directory")
    ended = call(evaluate.main, "--model", configured, "--output", reference)
    assert_mistake(ended, f"--output: {reference} cannot be a folder for 2 test sets: File exists")
    ended = call(evaluate.main, *one_set, "--output", reference)
    assert_mistake(ended, f"{reference}: would be read and written at once; name another --output")
    assert reference.read_text(encoding="utf-8").splitlines() == REFERENCES


def test_mistakes_about_test_sets(
    call: Call, checkpoint: Path, configured: Path, files: tuple[Path, Path], tmp_path: Path
) -> None:
    source, reference = files
    short = tmp_path / "short.en"
    short.write_text("a\nb\n", encoding="utf-8")
    for arguments, message in (
        (["--model", checkpoint], f"the config of {checkpoint} names no test set; give --source and --reference"),
        (["--model", configured, "--test-set", "hafl"], "has no test set 'hafl'; did you mean 'half'?"),
        (["--model", configured, "--baseline", reference], "choose by --test-set: whole, half"),
        (["--model", checkpoint, "--source", source, "--reference", short], "short.en has 2; line n of one"),
        (
            ["--model", checkpoint, "--source", source, "--reference", reference, "--baseline", short],
            "short.en has 2 lines and",
        ),
        (["--model", checkpoint, "--sacrebleu", "wmt71"], "sacrebleu has no test set 'wmt71'; did you mean"),
        (["--model", checkpoint, "--sacrebleu", "wmt17", "--langpair", "de-xx"], "has no language pair 'de-xx'"),
    ):
        assert_mistake(call(evaluate.main, *arguments), message)


def tuned(call: Call, *arguments: object) -> dict[str, Any]:
    ended = call(evaluate.main, *arguments, "--tune", "--json")
    assert ended.code == 0, ended
    return json.loads(ended.output)


def test_tuning_tries_length_penalties(call: Call, weak: Path, files: tuple[Path, Path]) -> None:
    """Each trial is what nmt-eval gives for this value, and the highest BLEU is chosen."""
    test_set = ("--source", files[0], "--reference", files[1])
    found = tuned(call, "--model", weak, *test_set)
    by_value = {trial["length_penalty"]: trial for trial in found["trials"]}
    assert list(by_value) == [0.0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.2, 1.4, 1.6, 1.8, 2.0]
    assert by_value[found["length_penalty"]]["bleu"] == max(trial["bleu"] for trial in found["trials"])
    ratios = [trial["length_ratio"] for trial in found["trials"]]
    assert ratios == sorted(ratios)
    assert ratios[0] < ratios[-1]
    for value in (0.0, 2.0):
        plain = ("--length-penalty", value, "--metrics", "bleu", "--samples", 0, "--json")
        ended = call(evaluate.main, "--model", weak, *test_set, *plain)
        bleu = json.loads(ended.output)["sets"][0]["scores"]["bleu"]["value"]
        assert by_value[value]["bleu"] == pytest.approx(bleu, abs=1e-9)
    own = tuned(call, "--model", weak, *test_set, "--length-penalty", 0.9)
    assert [trial["length_penalty"] for trial in own["trials"]] == sorted({*by_value, 0.9})


def test_of_equal_length_penalties_the_nearest_to_the_configured_one_wins() -> None:
    trials = [evaluation.Trial(value, bleu, 1.0) for value, bleu in ((0.0, 9.0), (0.8, 9.0), (1.0, 8.0), (1.6, 9.0))]
    assert evaluation.best_trial(trials, 1.0).length_penalty == 0.8
    assert evaluation.best_trial(trials, 1.4).length_penalty == 1.6


@pytest.mark.parametrize("split", [False, True])
def test_tuning_reads_the_validation_corpus(
    call: Call, files: tuple[Path, Path], tmp_path: Path, tokenizers: TokenizerPair, split: bool
) -> None:
    """Also one that training split from its own text."""
    corpus = f"{{source: {files[0]}, target: {files[1]}}}"
    overrides = (f"data.train={corpus}", f"data.validation={'{split: 2}' if split else corpus}")
    path = save_small(tmp_path / "model", tokenizers, overrides=overrides)
    found = tuned(call, "--model", path)
    assert found["set"] == "validation"
    text = call(evaluate.main, "--model", path, "--tune").output
    assert text.startswith(f"validation: {2 if split else 6} sentences, beam ")
    assert text.count("best") == 1
    best = f"{found['length_penalty']:g}"
    assert text.endswith(f"Use it: --length-penalty {best}, or search.length_penalty in the YAML\n")


def test_mistakes_of_tuning(call: Call, configured: Path, files: tuple[Path, Path]) -> None:
    two = ("--test-set", "whole", "--test-set", "half")
    ended = call(evaluate.main, "--model", configured, "--tune", *two)
    assert_mistake(ended, "--tune: is for one test set, and --test-set names 2 (whole, half); name one")
    ended = call(evaluate.main, "--model", configured, "--tune", "--test-set", "half", "--kind", "greedy")
    assert_mistake(ended, "--tune: the length penalty is for beam search, and the kind of search is greedy")
    ended = call(evaluate.main, "--model", configured, "--tune", "--output", "somewhere")
    assert "--tune goes without --baseline and --output" in ended.errors
    assert ended.code == 2
