"""The comparison of all attentions: it leaves none out, and its page says what was measured."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from nmt.experiment.families import read_config
from nmt.model.attention import COVERAGES, SCORES, WINDOWS
from nmt.model.attention.presets import ATTENTION_PRESETS
from nmt.model.wiring import WIRINGS
from scripts.compare_attention import BASELINE, BEGIN, END, MECHANISMS, Run, write_page

CONFIG = Path(__file__).parent.parent / "configs" / "multi30k-de-en.yaml"


def test_every_score_window_wiring_and_published_system_is_compared() -> None:
    attentions = [read_config(CONFIG, overrides).model.attention for overrides in MECHANISMS.values()]
    assert {attention.score.kind for attention in attentions} == set(SCORES)
    assert {attention.window.kind for attention in attentions} == set(WINDOWS)
    assert {attention.wiring.kind for attention in attentions} == set(WIRINGS)
    assert {attention.coverage.kind for attention in attentions} == set(COVERAGES)
    assert set(ATTENTION_PRESETS) < set(MECHANISMS)
    assert next(iter(MECHANISMS)) == BASELINE


def measured(bleu: float, ratio: float, p_value: float | None) -> dict[str, Any]:
    scores = {
        metric: {"value": bleu, "confidence": [bleu - 1, bleu + 1], "signature": "s:1"} for metric in ("bleu", "chrf")
    }
    test_set: dict[str, Any] = {"name": "test", "scores": scores}
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
        "plot": None,
    }


def test_the_page_keeps_what_stands_around_the_measured_part(tmp_path: Path) -> None:
    page = tmp_path / "attention.md"
    page.write_text(f"# Before\n\n{BEGIN}\nold\n{END}\n\nAfter\n")
    runs = [Run(name, tmp_path / name, ()) for name in (BASELINE, "other")]
    for run, values in zip(runs, (measured(30.0, 1.0, None), measured(28.5, 1.5, 0.0123)), strict=True):
        run.folder.mkdir()
        for name, value in values.items():
            run.keep(name, value)
    options = argparse.Namespace(config="c.yaml", set=["a.b=1"], seed=3, gold=["s", "t", "g"], page=page)
    for _ in range(2):
        write_page(runs, options)
        text = page.read_text()
        assert text.startswith(f"# Before\n\n{BEGIN}\n")
        assert text.endswith(f"{END}\n\nAfter\n")
        assert "old" not in text
        assert f"| {BASELINE} | 1.2 M | 7.89 | 30.00 [29.00, 31.00] |  | 30.00 [29.00, 31.00] |  | 25.6% |" in text
        assert (
            "| other | 1.2 M | 7.89 | 28.50 [27.50, 29.50] | 0.012 | 28.50 [27.50, 29.50] | 0.012 |  | 1.50 |" in text
        )
        assert "`c.yaml` with `a.b=1`, seed 3, 2 epochs, 1,234 updates each; commit abc1234" in text
