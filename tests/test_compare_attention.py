"""The comparison of all attentions: it leaves none out, and its page says what was measured."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest

from nmt.model.attention import COVERAGES, SCORES, WINDOWS
from nmt.model.attention.presets import ATTENTION_PRESETS
from nmt.model.wiring import WIRINGS
from nmt.tasks.components import read_config
from scripts.compare_attention import (
    BASELINE,
    BEGIN,
    END,
    MECHANISMS,
    PUBLISHED,
    Run,
    System,
    _parser,
    length_plot,
    page_of,
    systems_of,
    write_page,
)

pytest.importorskip("matplotlib")

CONFIG = Path(__file__).parent.parent / "configs" / "comparison.yaml"


def test_every_score_window_wiring_and_published_system_is_compared() -> None:
    attentions = [read_config(CONFIG, overrides).model.attention for overrides in MECHANISMS.values()]
    assert {attention.score.kind for attention in attentions} == set(SCORES)
    assert {attention.window.kind for attention in attentions} == set(WINDOWS)
    assert {attention.wiring.kind for attention in attentions} == set(WIRINGS)
    assert {attention.coverage.kind for attention in attentions} == set(COVERAGES)
    assert set(ATTENTION_PRESETS) < set(MECHANISMS)
    assert next(iter(MECHANISMS)) == BASELINE


def measured(bleu: float, ratio: float, p_value: float | None, attends: bool = False) -> dict[str, Any]:
    scores = {
        metric: {"value": bleu, "confidence": [bleu - 1, bleu + 1], "signature": "s:1"} for metric in ("bleu", "chrf")
    }
    by_length = [
        {
            "shortest": shortest,
            "longest": longest,
            "sentences": 9,
            "system": {"value": bleu + more},
            "length_ratio": 1.0,
        }
        for shortest, longest, more in ((1, 4, 5.0), (5, 5, 0.0), (6, 30, -5.0))
    ]
    test_set: dict[str, Any] = {"name": "test", "scores": scores, "by_length": by_length}
    if p_value is not None:
        test_set["comparisons"] = {metric: {"p_value": p_value} for metric in scores}
    speed = {"median": 100.0 * ratio, "ratio": ratio}
    return {
        "training": {
            "parameters": 1_250_000,
            "epochs": 2,
            "updates": 1234,
            "perplexity": 7.891,
            "peak_memory_mb": 999.6,
            "commit": "abc1234",
        },
        "scores": [test_set],
        "speed": {"training": speed, "translation": speed},
        "alignment": {"aer": 0.256, "pairs": 508} if p_value is None else None,
        "plot": attends,
    }


def options(*arguments: str) -> argparse.Namespace:
    return _parser().parse_args(arguments)


def system(folder: Path, name: str, *seeds: dict[str, Any]) -> System:
    """A system whose runs have measured what is given for each seed."""
    runs = tuple(Run(name, folder / name / str(number), ()) for number, _ in enumerate(seeds))
    for run, values in zip(runs, seeds, strict=True):
        run.folder.mkdir(parents=True)
        for key, value in values.items():
            run.keep(key, value)
    return System(name, "c.yaml", runs)


def test_the_page_keeps_what_stands_around_the_measured_part(tmp_path: Path) -> None:
    page = tmp_path / "attention.md"
    page.write_text(f"# Before\n\n{BEGIN}\nold\n{END}\n\nAfter\n")
    first, second = measured(30.0, 1.0, None), measured(28.5, 1.5, 0.0123)
    systems = [system(tmp_path, BASELINE, first), system(tmp_path, "other", second)]
    given = options("--config", "c.yaml", "--set", "a.b=1", "--seeds", "3", "--gold", "s", "t", "g")
    for _ in range(2):
        write_page(systems, given, page)
        text = page.read_text()
        assert text.startswith(f"# Before\n\n{BEGIN}\n")
        assert text.endswith(f"{END}\n\nAfter\n")
        assert "old" not in text
        assert f"| {BASELINE} | 1.2 M | 7.89 | 30.00 [29.00, 31.00] |  | 30.00 [29.00, 31.00] |  | 25.6% |" in text
        assert (
            "| other | 1.2 M | 7.89 | 28.50 [27.50, 29.50] | 0.012 | 28.50 [27.50, 29.50] | 0.012 |  | 1.50 |" in text
        )
        assert "`c.yaml` with `a.b=1`, seed 3, 2 epochs, 1,234 updates each; commit abc1234" in text


def test_several_seeds_have_a_mean_and_a_deviation(tmp_path: Path) -> None:
    """The sample standard deviation of 29, 30 and 31 is 1."""
    baseline = [measured(value, 1.0, None) for value in (29.0, 30.0, 31.0)]
    baseline[0]["training"]["peak_memory_mb"] = 1200.0
    other = [measured(28.0, 1.5, p_value) for p_value in (0.01, 0.2, 0.03)]
    page = tmp_path / "runs" / "attention.md"
    write_page(
        [system(tmp_path, BASELINE, *baseline), system(tmp_path, "other", *other)],
        options("--config", "c.yaml", "--seeds", "1", "2", "3"),
        page,
    )
    text = page.read_text()
    assert (
        "| mechanism | parameters | perplexity | BLEU | p | chrF | p | AER | training | translation | memory |" in text
    )
    row = f"| {BASELINE} | 1.2 M | 7.89 ± 0.00 | 30.00 ± 1.00 |  | 30.00 ± 1.00 |  | 25.6 ± 0.0% |"
    assert f"{row} 1.00 | 1.00 | 1,200 MB |" in text
    row = "| other | 1.2 M | 7.89 ± 0.00 | 28.00 ± 0.00 | 0.200 | 28.00 ± 0.00 | 0.200 |  |"
    assert f"{row} 1.50 | 1.50 | 1,000 MB |" in text
    assert "seeds 1, 2, 3, 2 epochs" in text
    assert "mean and sample standard deviation over the seeds" in text
    assert "with the same seed, the largest of the seeds" in text


def test_bleu_by_length_is_drawn_with_and_without_attention(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The baseline, what has no attention, and the best: means over the seeds."""
    from nmt.visualization import curves as drawing

    drawn: list[Any] = []
    monkeypatch.setattr(drawing, "render_length_curves", lambda *given: drawn.append(given) or b"drawn")
    systems = [
        system(tmp_path, BASELINE, measured(30.0, 1.0, None, True), measured(32.0, 1.0, None, True)),
        system(tmp_path, "none", measured(20.0, 1.0, 0.0), measured(20.0, 1.0, 0.0)),
        system(tmp_path, "best", measured(33.0, 1.0, 0.0, True), measured(34.0, 1.0, 0.0, True)),
        system(tmp_path, "other", measured(31.0, 1.0, 0.0, True), measured(31.0, 1.0, 0.0, True)),
    ]
    (line,) = length_plot(systems, tmp_path / "attention.md")
    assert line.startswith("![BLEU by the length of the source sentence: bahdanau2015, none, best](attention/by_length")
    assert (tmp_path / "attention" / "by_length.png").read_bytes() == b"drawn"
    curves = {BASELINE: [36.0, 31.0, 26.0], "none": [25.0, 20.0, 15.0], "best": [38.5, 33.5, 28.5]}
    assert drawn == [(["1-4", "5", "6-30"], curves, "png")]


def test_the_page_is_written_beside_the_runs_unless_it_is_published(tmp_path: Path) -> None:
    runs = ("--runs", str(tmp_path))
    assert page_of(options(*runs), PUBLISHED) == tmp_path / "attention.md"
    assert page_of(options(*runs, "--only", "mean"), PUBLISHED) == tmp_path / "attention.md"
    assert page_of(options(*runs, "--page", "x.md"), PUBLISHED) == Path("x.md")
    assert page_of(options(*runs, "--publish"), PUBLISHED) == Path("docs/attention.md")
    with pytest.raises(SystemExit, match="--publish writes the whole comparison"):
        page_of(options(*runs, "--only", "mean", "--publish"), PUBLISHED)


def test_yaml_files_are_compared_with_the_baseline(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text("seed: 1\n")
    given = options("--only", "mean", str(mine), "--seeds", "4", "5", "--runs", str(tmp_path), "--set", "a=b")
    systems = systems_of(given)
    assert [(each.name, each.config) for each in systems] == [
        (BASELINE, "configs/comparison.yaml"),
        ("mean", "configs/comparison.yaml"),
        ("mine", str(mine)),
    ]
    assert [run.folder for run in systems[2].runs] == [tmp_path / "mine" / "seed-4", tmp_path / "mine" / "seed-5"]
    assert [run.overrides for run in systems[2].runs] == [("a=b", "seed=4"), ("a=b", "seed=5")]
    assert [each.name for each in systems_of(options())] == list(MECHANISMS)

    again = tmp_path / "mean.yaml"
    again.write_text("")
    with pytest.raises(SystemExit, match="already"):
        systems_of(options("--only", str(again)))
    with pytest.raises(SystemExit):
        options("--only", "maen")
    assert "'maen' is neither a file nor one of bahdanau2015" in capsys.readouterr().err
