"""BLEU on text that is tokenized as Moses does: hand-made lines, a score computed by hand, tables and JSON."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
from sacrebleu.metrics.bleu import BLEU

from nmt.data.tokenizer import TokenizerPair
from scripts import moses_bleu
from scripts.moses_bleu import all_scores, moses_lines, moses_scores
from tests.support.commands import Call
from tests.support.models import REFERENCES, SOURCES, save_small


@pytest.fixture
def run(tmp_path: Path, tokenizers: TokenizerPair) -> Path:
    """A model whose config names two test sets."""
    for suffix, lines in (("de", SOURCES), ("en", REFERENCES)):
        (tmp_path / f"test.{suffix}").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    whole = f"source: {tmp_path}/test.de, target: {tmp_path}/test.en"
    return save_small(tmp_path / "run", tokenizers, tests=f"{{whole: {{{whole}}}, half: {{{whole}, limit: 3}}}}")


@pytest.mark.parametrize(
    ("language", "line", "plain", "split"),
    [
        ("de", "Ein „alter“ T-Shirt.", 'ein " alter " t-shirt .', 'ein " alter " t @-@ shirt .'),
        ("en", "It's Dr. X's.", "it 's dr. x 's .", "it 's dr. x 's ."),
        ("fr", "L’homme d'ici – là", "l' homme d' ici - là", "l' homme d' ici - là"),
        ("en", "A & <b>  ÉTÉ", "a & < b > été", "a & < b > été"),
        ("en", "", "", ""),
    ],
)
def test_lines_are_lowercased_then_normalized_then_tokenized(language: str, line: str, plain: str, split: str) -> None:
    pytest.importorskip("sacremoses")
    assert moses_lines([line], language, split_hyphens=False) == [plain]
    assert moses_lines([line], language, split_hyphens=True) == [split]


def test_a_score_computed_by_hand() -> None:
    """n-grams of `a man , a dog .` in `a man , a cat .`: 5 of 6, 3 of 5, 2 of 4 and 1 of 3; their product is 1/12.

    Case does not count, and a split word adds matches: `t @-@ shirt` has all n-grams but those of its first token.
    """
    pytest.importorskip("sacremoses")
    scores = moses_scores(["A MAN, a dog."], [["a man, a Cat."]], "en")
    for score in scores.values():
        assert score.value == pytest.approx(100 * (1 / 12) ** 0.25)
        assert score.signature is not None
        assert score.signature.startswith("nrefs:1|case:lc|eff:no|tok:none|smooth:none|version:")
    hyphens = moses_scores(["one t-shirt two three four"], [["one x-shirt two three four"]], "en")
    # Whole: 4/5, 2/4, 1/3 and 0/2, which is not smoothed. Split: 6/7, 4/6, 3/5 and 2/4.
    assert hyphens["lc.norm.tok"].value == 0.0
    assert hyphens["lc.norm.tok -a"].value == pytest.approx(100 * (6 / 7 * 4 / 6 * 3 / 5 * 2 / 4) ** 0.25)


def test_scores_equal_those_of_tokenized_text_and_of_nmt_eval() -> None:
    pytest.importorskip("sacremoses")
    hypotheses = ["The man's well-known dog (black) sleeps.", "It is cold, isn't it?"]
    references = [
        ["The man's well-known Dog (brown) sleeps.", "It was cold, wasn't it?"],
        ["A well-known dog sleeps.", "It is cold."],
    ]
    tokenized = [
        ["the man 's well-known dog ( black ) sleeps .", "it is cold , isn 't it ?"],
        ["the man 's well-known dog ( brown ) sleeps .", "it was cold , wasn 't it ?"],
        ["a well-known dog sleeps .", "it is cold ."],
    ]
    scores = all_scores(hypotheses, references, "en")
    plain = BLEU(tokenize="none", force=True).corpus_score(tokenized[0], tokenized[1:])
    assert scores["lc.norm.tok"].value == pytest.approx(plain.score)
    assert scores["13a"].value == pytest.approx(BLEU().corpus_score(hypotheses, references).score)
    assert scores["13a"].signature is not None
    assert scores["13a"].signature.startswith("nrefs:2|case:mixed|eff:no|tok:13a|smooth:exp|")


def test_the_sets_of_a_run(call: Call, run: Path) -> None:
    pytest.importorskip("sacremoses")
    ended = call(moses_bleu.main, "--model", run)
    assert (ended.code, ended.errors) == (0, "")
    lines = ended.output.splitlines()
    assert lines[0].startswith("whole: 6 sentences; sacremoses ")
    assert lines[0].endswith(", language en")
    assert [line.split()[0] for line in ended.output.splitlines()].count("BLEU") == 6
    assert "half: 3 sentences; " in ended.output
    found = json.loads(call(moses_bleu.main, "--model", run, "--json", "--test-set", "half").output)
    assert found["models"] == [str(run)]
    assert found["tokenizer"] == lines[0].split("; ")[1]
    (values,) = found["sets"]
    assert (values["name"], values["sentences"]) == ("half", 3)
    assert list(values["scores"]) == ["13a", "lc.norm.tok", "lc.norm.tok -a"]
    assert [score["value"] for score in values["scores"].values()] == pytest.approx([100.0] * 3)


def test_a_missing_package_is_named(call: Call, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(moses_bleu, "find_spec", lambda name: None if name == "sacremoses" else find(name))
    ended = call(moses_bleu.main, "--model", run)
    assert ended.code == 2
    assert ended.output == ""
    assert ended.errors.count("\n") == 1
    assert "scripts/moses_bleu takes the package sacremoses; pip install sacremoses" in ended.errors
