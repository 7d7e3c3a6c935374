"""Command line of `scripts/benchmark_scale`: runs each part in processes of its own."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path
from typing import Any

import torch

from scripts.scaling import page
from scripts.scaling.corpus import write_grammar
from scripts.scaling.memory import PROC, measure
from scripts.scaling.ranks import measure_ranks

VOCABULARY = 2000
PUBLISHED = Path("docs/scaling.md")


def main() -> int:
    options = _parser().parse_args()
    if not (PROC / "self" / "status").exists():
        sys.exit("scripts/benchmark_scale: reads the memory of processes from /proc, which only Linux has")
    measured: dict[str, Any] = {"machine": machine(), "remark": options.remark}
    if options.json and options.json.exists():
        # A part that is not measured now keeps its earlier figures.
        measured = {**json.loads(options.json.read_text(encoding="utf-8")), **measured}
    folder = Path(tempfile.mkdtemp(prefix="nmt-scale-", dir=options.folder))
    try:
        if options.only in (None, "data"):
            measured["data"] = measure_data(folder / "data", sorted(options.pairs), options.workers, options.text)
        if options.only in (None, "ranks"):
            say("one process and two")
            measured["ranks"] = measure_ranks(folder / "ranks", options.rounds, options.updates, options.set)
            measured["buckets"] = measure("buckets")
    finally:
        shutil.rmtree(folder)
    if options.json:
        options.json.write_text(json.dumps(measured, indent=1) + "\n", encoding="utf-8")
    for line in page.tables(measured):
        print(line)
    if options.page:
        page.write(options.page, measured)
        say(f"written: {options.page}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="scripts/benchmark_scale", description=__doc__)
    sizes = [100_000, 1_000_000, 10_000_000]
    parser.add_argument("--pairs", type=int, nargs="+", default=sizes, help="sizes of the corpus (%(default)s)")
    cores = os.cpu_count() or 1
    parser.add_argument(
        "--workers", type=int, nargs="+", default=sorted({1, 2, cores}), help="that encode (%(default)s)"
    )
    parser.add_argument("--only", choices=["data", "ranks"], help="one part alone")
    parser.add_argument("--text", type=int, default=cores, help="processes that write text (%(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="trainings of one and of two processes (%(default)s)")
    parser.add_argument("--updates", type=int, default=24, help="of each of these trainings (%(default)s)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="changes their config")
    parser.add_argument("--folder", type=Path, help="where the corpus goes, 600 bytes a pair; deleted at the end")
    parser.add_argument("--json", type=Path, help="the figures; parts not measured this time are taken from there")
    parser.add_argument("--remark", default="", help="a sentence for the page on how it was measured")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--page", type=Path, help="a file to write the tables into, beside standard output")
    where.add_argument(
        "--publish",
        dest="page",
        action="store_const",
        const=PUBLISHED,
        help=f"write them into {PUBLISHED}, which is part of the project",
    )
    return parser


def measure_data(folder: Path, sizes: Sequence[int], workers: Sequence[int], text: int) -> dict[str, Any]:
    """Measures the pipeline at every size of the corpus, and its scaling with workers at the last but one."""
    say(f"writing {sizes[-1]:,} pairs")
    source, target = write_grammar(folder, sizes[-1], text)
    paths = {"source": str(source), "target": str(target)}
    rows = []
    for pairs in sizes:
        say(f"{pairs:,} pairs: tokenizer")
        where = {**paths, "pairs": pairs, "folder": str(folder)}
        row: dict[str, Any] = {"pairs": pairs, "text_bytes": text_bytes(source, target, pairs, sizes[-1])}
        row["learning"] = measure("learning", **where, vocabulary=VOCABULARY)
        row["building"] = {}
        compared = pairs == sizes[max(len(sizes) - 2, 0)]
        for number in workers if compared else [max(workers)]:
            say(f"{pairs:,} pairs: encoding with {number} processes")
            shutil.rmtree(folder / "cache", ignore_errors=True)
            row["building"][str(number)] = measure("building", **where, workers=number)
        say(f"{pairs:,} pairs: batches")
        row["opening"] = [measure("opening", **where) for _ in range(2)]
        row["reading"] = {
            "ahead": measure("reading", **where, prefetch=True),
            "alone": measure("reading", **where, prefetch=False),
            "cold": measure("reading", **where, prefetch=True, cold=True),
        }
        row["ranks"] = side_by_side(where)
        rows.append(row)
    return {"rows": rows, "resting": measure("resting")}


def side_by_side(where: dict[str, Any]) -> list[dict[str, Any]]:
    """Measures two ranks that read their shares at the same time."""
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(lambda rank: measure("reading", **where, prefetch=True, rank=rank, world=2), range(2)))


def text_bytes(source: Path, target: Path, pairs: int, all_pairs: int) -> float:
    """Estimates the number from the first pairs."""
    return (source.stat().st_size + target.stat().st_size) * pairs / all_pairs


def machine() -> str:
    """Returns the machine and the commit."""
    models = [line.split(":")[1].strip() for line in _lines(PROC / "cpuinfo") if line.startswith("model name")]
    described = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False)
    return (
        f"{date.today()}, {os.cpu_count()} cores of {models[0] if models else 'an unknown processor'}, "
        f"torch {torch.__version__}, commit {described.stdout.strip() or 'unknown'}"
    )


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


def say(text: str) -> None:
    print(f"== {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
