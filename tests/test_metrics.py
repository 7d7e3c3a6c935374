"""Scores computed by hand or in another way; test sets from a cache that the test writes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import sacrebleu

from nmt.errors import DataError
from nmt.evaluation import MetricScore, score_rows, score_values
from nmt.evaluation.metrics import (
    MetricComparison,
    comparison_rows,
    comparison_values,
    corpus_scores,
    paired_bootstrap,
)
from nmt.evaluation.testsets import load_sacrebleu_set

REFERENCES = [
    f"the {adjective} {noun} sees the {other} ." for adjective in ("old", "young", "small") for noun, other in (
        ("dog", "cat"), ("man", "child"), ("woman", "bird"), ("horse", "river")
    )
]  # fmt: skip
WORSE = [line.replace("sees the", "saw a") if number % 2 else line for number, line in enumerate(REFERENCES)]
WORST = [line.replace("sees the", "saw a").replace("the ", "a ") for line in REFERENCES]


class TestCorpusScores:
    def test_a_perfect_translation(self) -> None:
        scores = corpus_scores(REFERENCES, REFERENCES)
        assert {name: score.name for name, score in scores.items()} == {"bleu": "BLEU", "chrf": "chrF2", "ter": "TER"}
        assert scores["bleu"].value == pytest.approx(100.0)
        assert scores["chrf"].value == pytest.approx(100.0)
        assert scores["ter"].value == 0.0

    def test_by_hand(self) -> None:
        """One substitution in six words: TER 1/6; n-gram precisions 5/6, 3/5, 1/4 and, 0 of 3 smoothed, 1/6."""
        scores = corpus_scores(["a b c d e f"], ["a b x d e f"])
        assert scores["bleu"].value == pytest.approx(100 * (5 / 6 * 3 / 5 * 1 / 4 * 1 / 6) ** (1 / 4))
        assert scores["ter"].value == pytest.approx(100 / 6)

    def test_several_references(self) -> None:
        """A word that either reference has is right: all unigrams match."""
        alone = corpus_scores(["the dog runs fast today"], ["the dog runs quickly today"], ("bleu",))["bleu"]
        both = corpus_scores(
            ["the dog runs fast today"], [["the dog runs quickly today"], ["a dog runs fast today"]], ("bleu",)
        )["bleu"]
        assert both.value > alone.value
        assert "nrefs:1" in alone.signature
        assert "nrefs:2" in both.signature

    def test_signatures(self) -> None:
        scores = corpus_scores(WORSE, REFERENCES)
        assert scores["bleu"].signature == (
            f"nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:{sacrebleu.__version__}"
        )
        assert "nc:6|nw:0" in scores["chrf"].signature
        assert "tok:tercom" in scores["ter"].signature
        assert all(score.confidence is None for score in scores.values())

    def test_confidence(self) -> None:
        scores = corpus_scores(WORSE, REFERENCES, samples=200)
        for score in scores.values():
            assert score.confidence is not None
            low, high = score.confidence
            assert low < score.value < high
            assert "bs:200|seed:12345" in score.signature
        assert corpus_scores(WORSE, REFERENCES, samples=200) == scores

    def test_no_resample_differs(self) -> None:
        scores = corpus_scores(REFERENCES, REFERENCES, samples=50)
        assert scores["bleu"].confidence == pytest.approx((100.0, 100.0))
        assert scores["ter"].confidence == (0.0, 0.0)

    def test_the_interval_is_what_the_command_line_prints(self, tmp_path: Path) -> None:
        for name, lines in (("hypotheses", WORSE), ("references", REFERENCES)):
            (tmp_path / name).write_text("".join(f"{line}\n" for line in lines))
        command = [sys.executable, "-m", "sacrebleu", "references", "-i", "hypotheses", "-m", "bleu", "--confidence"]
        printed = subprocess.run(
            [*command, "--confidence-n", "300"], cwd=tmp_path, capture_output=True, text=True, check=True
        )
        report = json.loads(printed.stdout)
        score = corpus_scores(WORSE, REFERENCES, ("bleu",), samples=300)["bleu"]
        assert score.confidence is not None
        assert sum(score.confidence) / 2 == pytest.approx(report["confidence_mean"], abs=0.06)
        assert (score.confidence[1] - score.confidence[0]) / 2 == pytest.approx(report["confidence_var"], abs=0.06)

    def test_the_environment_is_left_as_it_was(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("SACREBLEU_SEED", "99")
        corpus_scores(WORSE, REFERENCES, ("chrf",), samples=10)
        assert os.environ["SACREBLEU_SEED"] == "99"
        monkeypatch.delenv("SACREBLEU_SEED")
        corpus_scores(WORSE, REFERENCES, ("chrf",), samples=10)
        assert "SACREBLEU_SEED" not in os.environ

    def test_unequal_numbers(self) -> None:
        with pytest.raises(DataError, match="2 translations, but 3 references: "):
            corpus_scores(["a", "b"], ["a", "b", "c"])
        with pytest.raises(DataError, match="2 translations, but 1 references in set 2: "):
            corpus_scores(["a", "b"], [["a", "b"], ["c"]])
        with pytest.raises(DataError) as caught:
            paired_bootstrap(["a"], ["a", "b", "c"], ["a", "b"])
        assert len(caught.value.problems) == 2

    @pytest.mark.parametrize("references", [[], [[]], [[], []]])
    def test_an_empty_test_set(self, references: list[list[str]]) -> None:
        with pytest.raises(DataError, match="the test set is empty"):
            corpus_scores([], references)


class TestPairedBootstrap:
    def test_a_clear_difference(self) -> None:
        compared = paired_bootstrap(WORST * 5, REFERENCES * 5, REFERENCES * 5, samples=300)
        for name, score in corpus_scores(WORST * 5, REFERENCES * 5).items():
            assert compared[name].name == score.name
            assert compared[name].baseline == pytest.approx(score.value)
            assert compared[name].p_value < 0.05
            assert "bs:300|seed:12345" in compared[name].signature
        assert compared["bleu"].delta == pytest.approx(compared["bleu"].system - compared["bleu"].baseline)
        assert compared["bleu"].delta > 0 > compared["ter"].delta

    def test_no_difference(self) -> None:
        for comparison in paired_bootstrap(WORSE, WORSE, REFERENCES, samples=100).values():
            assert comparison.delta == 0.0
            assert comparison.p_value == 1.0

    def test_is_repeatable(self) -> None:
        first, again = (paired_bootstrap(WORST, WORSE, REFERENCES, ("bleu",), samples=100) for _ in range(2))
        assert first == again


def load_in_new_process(cache: Path, name: str, langpair: str) -> subprocess.CompletedProcess[str]:
    """sacrebleu reads the path of its cache when it is imported."""
    program = (
        "import json, sys, socket\n"
        "from nmt.evaluation.testsets import load_sacrebleu_set\n"
        "from nmt.errors import DataError\n"
        "def refuse(*args, **kwargs): raise OSError('no network here')\n"
        "socket.getaddrinfo = refuse\n"
        "try: print(json.dumps(load_sacrebleu_set(*sys.argv[1:])))\n"
        "except DataError as error: print(error, file=sys.stderr); sys.exit(2)\n"
    )
    return subprocess.run(
        [sys.executable, "-c", program, name, langpair],
        env={**os.environ, "SACREBLEU": str(cache)},
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        check=False,
    )


def write_cache(cache: Path, name: str, langpair: str, **fields: list[str]) -> None:
    (cache / name).mkdir(parents=True)
    for field, lines in fields.items():
        path = cache / name / f"{name.replace('/', '_')}.{langpair}.{field}"
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


META = {"docid": ["a", "a"], "genre": ["news", "news"], "origlang": ["de", "de"]}


class TestSacrebleuSets:
    def test_from_the_cache(self, tmp_path: Path) -> None:
        source, reference = ["Ein\rHund\u2028rennt.", ""], ["A dog runs.", "Yes."]
        write_cache(tmp_path, "wmt17", "de-en", src=source, ref=reference, **META)
        loaded = load_in_new_process(tmp_path, "wmt17", "de-en")
        assert loaded.returncode == 0, loaded.stderr
        assert json.loads(loaded.stdout) == [source, [reference]]

    def test_a_part_of_a_set_and_several_references(self, tmp_path: Path) -> None:
        write_cache(tmp_path, "wmt17/dev", "en-lv", src=["A", "B"], ref=["C", "D"], **META)
        assert json.loads(load_in_new_process(tmp_path, "wmt17/dev", "en-lv").stdout) == [["A", "B"], [["C", "D"]]]
        two = {"ref-0": ["C", "D"], "ref-1": ["E", "F"]}
        write_cache(tmp_path, "wmt20/tworefs", "de-en", src=["A", "B"], **two, **META)
        loaded = load_in_new_process(tmp_path, "wmt20/tworefs", "de-en")
        assert json.loads(loaded.stdout) == [["A", "B"], [["C", "D"], ["E", "F"]]]

    def test_offline_and_not_in_the_cache(self, tmp_path: Path) -> None:
        loaded = load_in_new_process(tmp_path, "wmt17", "de-en")
        assert loaded.returncode == 2
        assert "Traceback" not in loaded.stderr
        [line] = loaded.stderr.splitlines()
        assert line.startswith("test set wmt17 de-en is not in sacrebleu's cache and cannot be downloaded (URLError: ")
        assert "no network here" in line
        assert "run `sacrebleu -t wmt17 -l de-en --echo src`" in line
        assert str(tmp_path / "wmt17") in line

    def test_a_damaged_cache(self, tmp_path: Path) -> None:
        write_cache(tmp_path, "wmt17", "de-en", src=["A", "B"], ref=["C"], **META)
        loaded = load_in_new_process(tmp_path, "wmt17", "de-en")
        assert loaded.returncode == 2
        assert loaded.stderr.startswith("test set wmt17 de-en has 2 source sentences and 1 references: remove ")

    def test_an_unknown_set(self) -> None:
        with pytest.raises(DataError, match=r"sacrebleu has no test set 'wmt7'; did you mean wmt17"):
            load_sacrebleu_set("wmt7", "de-en")
        with pytest.raises(DataError, match="'multi30k2016'; did you mean multi30k/2016"):
            load_sacrebleu_set("multi30k2016", "de-en")
        with pytest.raises(DataError, match="it has iwslt17, "):
            load_sacrebleu_set("?", "de-en")

    def test_an_unknown_language_pair(self) -> None:
        with pytest.raises(
            DataError, match=r"wmt17/dev has no language pair 'de-en', only en-lv, .*; de-en is in .*wmt17"
        ):
            load_sacrebleu_set("wmt17/dev", "de-en")
        with pytest.raises(DataError, match=r"has no language pair 'english', only [^;]*$"):
            load_sacrebleu_set("wmt17", "english")


SCORES = {
    "bleu": MetricScore("BLEU", 38.514, "nrefs:1|case:mixed", (37.25, 39.75)),
    "ter": MetricScore("TER", 41.0, "nrefs:1|case:lc"),
}


def test_intervals_of_a_set_so_small_that_nothing_may_match() -> None:
    hypotheses, references = ["a dog", "", "cat", "x"], ["a dog", "a line .", "bird", "y"]
    scores = corpus_scores(hypotheses, references, samples=50)
    for score in scores.values():
        assert score.confidence is not None
        assert score.confidence[0] <= score.confidence[1]


class TestForms:
    def test_rows(self) -> None:
        assert score_rows(SCORES) == [
            ("metric", "score", "95% interval", "signature"),
            ("BLEU", "38.51", "37.25 to 39.75", "nrefs:1|case:mixed"),
            ("TER", "41.00", "", "nrefs:1|case:lc"),
        ]
        assert score_rows({"ter": SCORES["ter"]}) == [
            ("metric", "score", "signature"),
            ("TER", "41.00", "nrefs:1|case:lc"),
        ]
        assert comparison_rows({"bleu": MetricComparison("BLEU", 30.0, 31.5, 0.012, "bs:1000")}) == [
            ("metric", "baseline", "system", "difference", "p", "signature"),
            ("BLEU", "30.00", "31.50", "+1.50", "0.0120", "bs:1000"),
        ]

    def test_json(self) -> None:
        assert json.loads(json.dumps(score_values(SCORES)))["bleu"] == {
            "name": "BLEU",
            "value": 38.514,
            "signature": "nrefs:1|case:mixed",
            "confidence": [37.25, 39.75],
        }
        [comparison] = comparison_values({"bleu": MetricComparison("BLEU", 30.0, 31.5, 0.012, "bs:1000")}).values()
        assert comparison["delta"] == 1.5


class TestDocuments:
    def test_documents_of_one_sentence_are_sentences(self) -> None:
        """The same samples and scores as sacrebleu's own, to its rounding."""
        alone = range(len(WORSE))
        plain, grouped = (
            corpus_scores(WORSE, REFERENCES, samples=200, documents=documents) for documents in (None, alone)
        )
        for name, score in plain.items():
            assert grouped[name].value == score.value
            assert grouped[name].confidence == pytest.approx(score.confidence, abs=1e-3)
        before, after = (
            paired_bootstrap(WORST, WORSE, REFERENCES, samples=200, documents=documents) for documents in (None, alone)
        )
        for name, comparison in before.items():
            found = after[name]
            assert (found.baseline, found.system) == pytest.approx((comparison.baseline, comparison.system))
            assert found.p_value == pytest.approx(comparison.p_value)
            assert found.name == comparison.name

    def test_signatures_say_what_was_resampled(self) -> None:
        scores = corpus_scores(WORSE, REFERENCES, samples=50, documents=[0] * 5 + [1] * 7)
        assert scores["bleu"].signature.endswith("|bs:50|seed:12345|bs.unit:document")
        compared = paired_bootstrap(WORSE, WORST, REFERENCES, ("ter",), samples=50, documents=[0] * 5 + [1] * 7)
        assert compared["ter"].signature.endswith("|bs:50|seed:12345|bs.unit:document")
        assert "bs.unit" not in corpus_scores(WORSE, REFERENCES, documents=[0] * 12)["bleu"].signature

    def test_two_documents_have_three_outcomes(self) -> None:
        """Either one twice, or both: the interval reaches from the worse to the better."""
        hypotheses, documents = [*REFERENCES[:6], *WORST[6:]], [4] * 6 + [2] * 6
        scores = corpus_scores(hypotheses, REFERENCES, ("ter",), samples=400, documents=documents)
        ends = [
            corpus_scores(hypotheses[part], REFERENCES[part], ("ter",))["ter"].value
            for part in (slice(6), slice(6, 12))
        ]
        drawn = np.random.default_rng(12345).choice(2, size=(400, 2)).sum(1)
        by_count = {0: ends[0], 1: scores["ter"].value, 2: ends[1]}
        mean = np.mean([by_count[count] for count in drawn.tolist()])
        half = (max(ends) - min(ends)) / 2
        assert scores["ter"].confidence == pytest.approx((mean - half, mean + half))

    def test_a_difference_in_one_document_alone_is_less_certain_than_one_everywhere(self) -> None:
        """As many better sentences: spread over the documents, or all in one of them."""
        references = REFERENCES * 4
        documents = [number for number in range(12) for _ in range(4)]
        baseline = [WORST[row % 12] for row in range(48)]
        spread = [references[row] if row % 4 == 0 else baseline[row] for row in range(48)]
        together = [references[row] if row < 12 else baseline[row] for row in range(48)]
        p_values = [
            paired_bootstrap(baseline, system, references, ("chrf",), samples=300, documents=documents)["chrf"].p_value
            for system in (spread, together)
        ]
        assert p_values[0] < p_values[1]

    def test_a_number_that_comes_back_begins_another_document(self) -> None:
        hypotheses = [*REFERENCES[:5], *WORST[5:]]
        ways = [1, 1, 2, 2, 1, 1] * 2, [1, 1, 2, 2, 3, 3, 3, 3, 4, 4, 5, 5], [1, 1, 2, 2, 1, 1, 1, 1, 3, 3, 4, 4]
        found = [
            corpus_scores(hypotheses, REFERENCES, ("bleu",), samples=100, documents=way)["bleu"]
            for way in (*ways, [1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6])
        ]
        assert found[0] == found[1] == found[2]
        assert found[3].confidence != found[0].confidence
