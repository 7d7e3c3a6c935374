"""nmt-eval: test sets, tables, JSON, baselines, and mistakes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nmt.cli import evaluate
from nmt.data.tokenizer import TokenizerPair
from nmt.tasks.translation import evaluation
from tests.support.commands import Call, Ended
from tests.support.models import REFERENCES, SOURCES, save_small


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
