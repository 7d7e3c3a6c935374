"""Accuracy, macro F1, confusion matrix and bootstrap, computed by hand or in another way."""

from __future__ import annotations

import json
import math
import random

import pytest

from nmt.evaluation import score_rows
from nmt.evaluation.label_metrics import confusion_rows, label_score_values, label_scores

LABELS = ("a", "b", "c")
# a taken for a twice and for b once, b for b, c for a.
GOLD = [0, 0, 0, 1, 2]
GIVEN = [0, 0, 1, 1, 0]


def test_by_hand() -> None:
    """a: precision 2/3, recall 2/3, F1 2/3; b: 1/2, 1, 2/3; c: none given, 0, F1 0. Macro F1 (2/3 + 2/3 + 0) / 3."""
    found = label_scores(GOLD, GIVEN, LABELS)
    assert found.scores["accuracy"].value == pytest.approx(60.0)
    assert found.scores["macro_f1"].value == pytest.approx(100 * 4 / 9)
    assert found.confusion_KK.tolist() == [[2, 1, 0], [0, 1, 0], [1, 0, 0]]
    assert found.by_label["a"] == pytest.approx((200 / 3, 200 / 3, 200 / 3))
    assert found.by_label["b"] == pytest.approx((50.0, 100.0, 200 / 3))
    assert math.isnan(found.by_label["c"][0])
    assert found.by_label["c"][1:] == (0.0, 0.0)
    assert found.scores["accuracy"].confidence is None


def test_a_label_that_occurs_nowhere_does_not_count() -> None:
    assert label_scores([0, 1], [0, 1], LABELS).scores["macro_f1"].value == 100.0
    assert label_scores([0, 1], [0, 2], LABELS).scores["macro_f1"].value == pytest.approx(100 / 3)


def test_the_interval_is_that_of_the_binomial() -> None:
    """80% of 400: 1.96 standard deviations are 3.92 points."""
    gold = [0] * 400
    given = [0] * 320 + [1] * 80
    low, high = label_scores(gold, given, LABELS, samples=2000).scores["accuracy"].confidence or (0, 0)
    assert low == pytest.approx(76.08, abs=0.5)
    assert high == pytest.approx(83.92, abs=0.5)
    again = label_scores(gold, given, LABELS, samples=2000).scores["accuracy"].confidence
    assert again == (low, high)


def test_the_interval_of_macro_f1_holds_its_value() -> None:
    generator = random.Random(1)
    gold = [generator.randrange(3) for _ in range(300)]
    given = [label if generator.random() < 0.7 else generator.randrange(3) for label in gold]
    score = label_scores(gold, given, LABELS, samples=500).scores["macro_f1"]
    assert score.confidence is not None
    assert score.confidence[0] < score.value < score.confidence[1]
    assert score.confidence[1] - score.confidence[0] < 15.0


def test_it_agrees_with_scikit_learn() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    generator = random.Random(2)
    gold, given = ([generator.randrange(3) for _ in range(100)] for _ in range(2))
    found = label_scores(gold, given, LABELS)
    assert found.scores["accuracy"].value == pytest.approx(100 * metrics.accuracy_score(gold, given))
    assert found.scores["macro_f1"].value == pytest.approx(100 * metrics.f1_score(gold, given, average="macro"))
    assert found.confusion_KK.tolist() == metrics.confusion_matrix(gold, given).tolist()


def test_tables_and_json() -> None:
    found = label_scores(GOLD, GIVEN, LABELS, samples=50)
    assert score_rows(found.scores)[0] == ("metric", "score", "95% interval")
    assert score_rows(found.scores)[1][:2] == ("accuracy", "60.00")
    assert confusion_rows(found) == [
        ("label", "as a", "as b", "as c", "precision", "recall", "F1"),
        ("a", "2", "1", "0", "66.67", "66.67", "66.67"),
        ("b", "0", "1", "0", "50.00", "100.00", "66.67"),
        ("c", "1", "0", "0", "-", "0.00", "0.00"),
    ]
    values = json.loads(json.dumps(label_score_values(found), allow_nan=False))
    assert values["labels"]["c"] == {"precision": None, "recall": 0.0, "f1": 0.0}
    assert values["confusion"]["a"] == {"a": 2, "b": 1, "c": 0}
