"""BLEU by sentence length."""

from __future__ import annotations

from itertools import pairwise

import pytest

from nmt.evaluation.metrics import GROUPS, corpus_scores, length_groups, length_rows, scores_by_length

pytest.importorskip("matplotlib")


def sentence(words: int) -> str:
    return " ".join(["word"] * words)


def test_groups_have_equal_shares_and_never_divide_a_length() -> None:
    sources = [sentence(words) for words in (5, 1, 3, 2, 3, 6, 4, 1, 2, 4, 5, 6)]
    assert length_groups(sources, 3) == [[1, 7, 3, 8], [2, 4, 6, 9], [0, 10, 5, 11]]
    # Eight of twelve sentences have three words: they are one group, whose share covers the next ones as well.
    uneven = [sentence(words) for words in (1, 3, 3, 3, 3, 3, 3, 3, 3, 4, 5, 6)]
    assert length_groups(uneven, 4) == [[0, *range(1, 9)], [9], [10], [11]]


def test_every_sentence_is_in_one_group() -> None:
    sources = [sentence(1 + number * number % 17) for number in range(100)]
    groups = length_groups(sources)
    assert sorted(row for rows in groups for row in rows) == list(range(100))
    assert 1 < len(groups) <= GROUPS
    ends = [(min(each), max(each)) for each in ([len(sources[row].split()) for row in rows] for rows in groups)]
    assert all(before[1] < after[0] for before, after in pairwise(ends))


def test_a_group_is_scored_as_a_test_set_of_its_own() -> None:
    sources = ["a b", "a b", "a b c d e f", "a b c d e f"]
    references = ["one two three four five", "six seven eight nine ten", "a b c d e f g", "h i j k l m n"]
    hypotheses = [*references[:2], "a b c d e f", "h i j k x l m n"]
    baseline = ["one two three four five", "six seven", *references[2:]]
    short, long = scores_by_length(sources, hypotheses, [references], baseline)
    assert (short.shortest, short.longest, short.sentences, short.system.value) == (2, 2, 2, pytest.approx(100.0))
    assert (long.words, long.sentences) == ("6", 2)
    assert long.system.value == corpus_scores(hypotheses[2:], references[2:], ("bleu",))["bleu"].value < 100.0
    assert long.length_ratio == 14 / 14
    assert short.baseline is not None
    assert short.baseline.value == corpus_scores(baseline[:2], references[:2], ("bleu",))["bleu"].value < 100.0
    assert length_rows([short, long])[1] == ("2", "2", f"{short.baseline.value:.2f}", "100.00", "1.000")


def test_the_picture_has_a_curve_for_each_system_and_repeats() -> None:
    from nmt.visualization.curves import render_length_curves

    curves = {"with attention": [30.0, 31.0], "without": [28.0, 12.0]}
    intervals = {"without": [(27.0, 29.0), (11.0, 13.0)]}
    picture = render_length_curves(["1-7", "8-20"], curves, "svg", intervals)
    assert picture == render_length_curves(["1-7", "8-20"], curves, "svg", intervals)
    for text in ("with attention", "without", "1-7", "8-20", "BLEU"):
        assert f">{text}<" in picture.decode()
    assert picture.decode().count('<g id="FillBetween') == 1
    assert render_length_curves(["1-7", "8-20"], curves, "png").startswith(b"\x89PNG")
