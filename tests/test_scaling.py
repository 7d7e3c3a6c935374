"""The measurements of scale: what they measure is so, and what a billion pairs cost follows from it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from scripts.scaling import page
from scripts.scaling.__main__ import _parser
from scripts.scaling.corpus import write_grammar, write_words
from scripts.scaling.cost import Assumptions, Measured, epoch, exchange, exposed, preparation
from scripts.scaling.memory import PROC, watch
from scripts.scaling.page import BEGIN, END

ROOT = Path(__file__).parent.parent
needs_proc = pytest.mark.skipif(not (PROC / "self" / "status").exists(), reason="memory is read from /proc")


def test_the_corpus_is_the_same_for_any_number_of_processes(tmp_path: Path) -> None:
    alone, together = (
        [path.read_text(encoding="utf-8") for path in write_grammar(tmp_path / str(processes), 10_003, processes)]
        for processes in (1, 2)
    )
    assert alone == together
    assert [text.count("\n") for text in alone] == [10_003, 10_003]
    assert len(set(alone[1].splitlines())) > 9_900, "pairs differ, within blocks and between them"
    lines = zip(*(text.splitlines() for text in alone), strict=True)
    assert all(source.count(".") == target.count(".") in (2, 3) for source, target in lines)


def test_words_are_as_long_as_captions(tmp_path: Path) -> None:
    paths = write_words(tmp_path, 300)
    lengths = [[len(line.split()) for line in path.read_text().splitlines()] for path in paths]
    assert lengths[0] == lengths[1]
    assert 9 < sum(lengths[0]) / 300 < 11


ALLOCATE = "import time; kept = bytearray(b'x') * (150 << 20); time.sleep(0.5); print(len(kept))"


@needs_proc
def test_the_peaks_are_those_of_the_process_and_of_what_it_starts() -> None:
    said, peak = watch([sys.executable, "-c", ALLOCATE])
    assert int(said) == 150 << 20
    assert 150 < peak.main < 200
    assert peak.worker == 0.0
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {ALLOCATE!r}], check=True)"
    _, peak = watch([sys.executable, "-c", parent])
    assert 150 < peak.worker < 200
    assert peak.main < 50


@needs_proc
def test_a_command_that_fails_ends_the_measurement() -> None:
    with pytest.raises(SystemExit, match="ended with 3"):
        watch([sys.executable, "-c", "raise SystemExit(3)"])


# The cost of a billion pairs

PARTS = Measured(
    pieces=20.0,
    fingerprint=2e-6,
    learning=3e-6,
    serial=5e-6,
    tokenizing=18e-6,
    plan=2e-7,
    batches=1e-7,
    bytes_beside_ids=26.0,
    memory_mb=300.0,
    ready=[(0.25, 0.5), (0.5, 0.75), (0.25, 1.0)],
)
ASSUMED = Assumptions(pairs=1e9, pieces=20.0, rates=(100_000.0,), batch_tokens=10_000.0, fill=0.9, cores=(4,))


def test_what_is_waited_for_by_hand() -> None:
    ready = [(0.25, 0.5), (0.5, 0.75), (0.25, 1.0)]
    # A quarter travels from 50 to 60, a half from 75 to 95, the last quarter from 100 to 110.
    assert exposed(ready, 40.0, 100.0) == pytest.approx(10.0)
    # From 50 to 90, from 90 to 170, from 170 to 210.
    assert exposed(ready, 160.0, 100.0) == pytest.approx(110.0)
    # All in one bucket at the end: nothing overlaps.
    assert exposed([(1.0, 1.0)], 40.0, 100.0) == pytest.approx(40.0)
    assert exposed(list(reversed(ready)), 40.0, 100.0) == pytest.approx(10.0)


def test_preparation_by_hand() -> None:
    text = "\n".join(preparation(PARTS, ASSUMED))
    # 40 pieces instead of 20: twice as much. 3 us x 2 x 10^9 = 6,000 s, and so on.
    assert "a factor of 2.00" in text
    assert "1e+09 x 3.00 µs x 2.00 | 1.7 |" in text
    assert "1e+09 x 2.00 µs x 2.00 | 1.1 |" in text
    assert "1e+09 x 5.00 µs x 2.00 | 2.8 |" in text
    assert "1e+09 x 18.00 µs x 2.00 / 4 cores | 2.5 |" in text
    # 2 sides x 20 pieces x 2 bytes, and 26.
    assert "80 bytes of ids and 26 of offsets" in text
    assert "= 106 GB" in text


def test_an_epoch_by_hand() -> None:
    text = "\n".join(epoch(PARTS, ASSUMED))
    assert "2.1e+10 target tokens" in text
    assert "plans 239 windows in it, 0.8 s each (200 s)" in text
    # 2.1e10 / (8 x 10^5) s = 26,250 s; 200 s of them planning; 10^5 tokens a second at 10^-7 s each.
    assert "| 8 | 100,000 | 7.3 | 58 | 0.8% | 1.0% |" in text
    assert "| 64 | 100,000 | 0.9 | 58 | 6.1% | 1.0% |" in text


def test_the_exchange_by_hand() -> None:
    lines = list(exchange(PARTS, ASSUMED))
    # 4 x 160e6 x 2 x 7/8 bytes at 300 GB/s: 3.7 ms, a quarter of it after the backward pass; an update takes 90 ms.
    assert "| GNMT's size, 160 M | 8 | inside a node | 1.120 | 3.7 | 100,000 | 90 | 0.9 | 99% | 100% |" in lines
    # 1.26 GB at 1.25 GB/s; the backward pass takes 54 ms, half of it overlaps.
    assert "| GNMT's size, 160 M | 64 | 100 Gbit/s a node | 1.260 | 1008.0 | 100,000 | 90 | 981.0 | 8% | 27% |" in lines


# The page


def measured() -> dict[str, Any]:
    stage = {"main_mb": 200.0, "worker_mb": 170.0}
    reading = {
        **stage,
        **{"plan_seconds": 0.1, "window_rows": 1000, "windows": 1, "seconds": 2.0, "batches": 10, "tokens": 40_000},
        **{"tokens_per_second": 20_000.0, "batches_per_second": 5.0},
    }
    building = {
        **stage,
        **{"seconds": 4.0, "fingerprint_cpu": 0.01, "main_cpu": 0.03, "workers_cpu": 0.05},
        **{"pieces": 20_000, "bytes": 66_000, "duplicates": 20},
    }
    row = {
        "pairs": 1000,
        "text_bytes": 1e5,
        "learning": {**stage, "seconds": 1.5, "cpu": 1.0},
        "building": {"1": building, "2": building},
        "opening": [{**stage, "open_seconds": second, "first_update_seconds": 0.05} for second in (0.5, 0.02)],
        "reading": dict.fromkeys(("ahead", "alone", "cold"), reading),
        "ranks": [reading, reading],
    }
    return {
        "machine": "a machine",
        "remark": "Nobody else was there.",
        "data": {"rows": [row], "resting": stage},
        "ranks": {
            **{"config": "c", "updates": 8, "one": [1.0], "two": [1.8], "ratio": 1.8, "ratios": [1.8]},
            "agreeing": {"ranks": 2, "seconds": 5e-5},
        },
        "buckets": {"parameters": 8, "buckets": [{"bytes": 1 << 20, "ready": 0.5}, {"bytes": 1 << 20, "ready": 1.0}]},
    }


def test_the_published_page_is_written_only_when_asked_for() -> None:
    parse = _parser().parse_args
    assert parse(["--only", "ranks"]).page is None
    assert parse(["--publish"]).page == Path("docs/scaling.md")


def test_the_page_keeps_what_stands_around_the_measured_part(tmp_path: Path) -> None:
    path = tmp_path / "scaling.md"
    path.write_text(f"# Before\n\n{BEGIN}\nobsolete\n{END}\n\nAfter\n", encoding="utf-8")
    report = json.loads(json.dumps(measured()))
    for _ in range(2):
        page.write(path, report)
        text = path.read_text(encoding="utf-8")
        assert text.startswith(f"# Before\n\n{BEGIN}\n")
        assert text.endswith(f"{END}\n\nAfter\n")
        assert "obsolete" not in text
    assert "| 1,000 | 0 MB | 200 MB, 1.5 s | 200 (170) MB | 200 MB | 0.50 / 0.02 s | 0.05 s |" in text
    assert "| 1,000 | 2 | 250 | 5,000 | 10.0 | 20.0 | 50.0 | 66 | 2.0% |" in text
    assert "| 1,000 | 1 | 0.10 s | 20,000 (5) | 20,000 (5) | 20,000 (5) | 40,000 (10) | 200 MB |" in text
    assert "\na machine. Nobody else was there.\n" in text
    assert "median **1.80**. Agreeing on the counts of an update takes them 50 µs." in text
    assert "| 50% | 100% |" in text
    assert "A billion pairs" in text
    parts = Measured.of(report)
    assert (parts.pieces, parts.bytes_beside_ids) == (20.0, 26.0)
    assert (parts.fingerprint, parts.serial, parts.tokenizing) == pytest.approx((1e-5, 2e-5, 5e-5))
    assert (parts.learning, parts.plan, parts.batches) == pytest.approx((1e-3, 1e-4, 5e-5))
    assert parts.ready == [(0.5, 0.5), (0.5, 1.0)]


def test_one_part_alone_has_no_cost(tmp_path: Path) -> None:
    for part in (("ranks", "buckets"), ("data",)):
        lines = list(
            page.tables({name: value for name, value in measured().items() if name in ("machine", "remark", *part)})
        )
        assert not any("billion" in line for line in lines)
        assert len(lines) > 5


@needs_proc
@pytest.mark.slow
def test_the_command_measures_a_small_corpus(tmp_path: Path) -> None:
    arguments = ["--only", "data", "--pairs", "1500", "3000", "--workers", "1", "--text", "1"]
    files = ["--folder", str(tmp_path), "--json", str(tmp_path / "out.json"), "--page", str(tmp_path / "page.md")]
    subprocess.run([sys.executable, "-m", "scripts.scaling", *arguments, *files], cwd=ROOT, check=True)
    rows = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))["data"]["rows"]
    assert [row["pairs"] for row in rows] == [1500, 3000]
    for row in rows:
        reading = row["reading"]
        assert reading["ahead"]["tokens"] == reading["alone"]["tokens"] == sum(rank["tokens"] for rank in row["ranks"])
        assert reading["ahead"]["tokens"] > 20 * row["pairs"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.json", "page.md"]
