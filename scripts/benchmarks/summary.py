"""Summarizes `scripts/check_gpu`, a line each: `python -m scripts.benchmarks.summary FOLDER [FAILED ...]`.

The folder has the JSON of each benchmark under its name; what failed is named after it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

TRAINING = ("bahdanau2015", "nematus2017", "luong2015_global_general", "luong2015_global_dot", "gnmt_v2")
TOKENS, TIMES, SHARE = 420_000, 8.0, 0.5
"""Targets: source and target tokens a second of GNMT v2 on an H200, bahdanau2015's speed in that of the plain loop, and
its share of what products and launches allow."""


def main(arguments: Sequence[str]) -> int:
    """Prints the summary; returns 1 if something failed."""
    folder, *failed = arguments
    reports = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in Path(folder).glob("*.json")}
    print("Summary")
    for line in lines(reports, failed):
        print(f"  {line}")
    return 1 if failed else 0


def lines(reports: Mapping[str, Mapping[str, Any]], failed: Sequence[str]) -> Iterator[str]:
    """Yields the speeds of every benchmark, and whether they reach the targets."""
    for name in TRAINING:
        for result in reports.get(name, {}).get("results", ()):
            yield f"{name}, {result['precision']}, {result['kernel']}: {_training(name, result)}"
    for result in reports.get("translation", {}).get("results", ()):
        yield (
            f"translation, {result['precision']}, batch {result['batch']}, beam {result['beam']}: "
            f"{result['sentences_per_second']:.1f} sentences/s"
        )
    yield f"failed: {', '.join(failed)}" if failed else "nothing failed"


def _training(name: str, result: Mapping[str, Any]) -> str:
    together, times = result["source_and_target_tokens_per_second"], result["times_reference"][0]
    share = result.get("launching", {}).get("share_of_allowed")
    fused = result["kernel"] != "reference"
    said = [
        f"{together:,.0f} source and target tokens/s"
        + (_wanted(together > TOKENS, f"more than {TOKENS:,} on an H200") if fused and name == "gnmt_v2" else "")
    ]
    measured = fused and name == "bahdanau2015"
    if fused:
        said.append(f"{times:.1f} times the plain loop" + (_wanted(times >= TIMES, f"{TIMES:.0f}") if measured else ""))
    if share is not None:
        allowed = f"{share:.0%} of what products and launches allow"
        said.append(allowed + (_wanted(share >= SHARE, f"{SHARE:.0%}") if measured else ""))
    return ", ".join(said)


def _wanted(reached: bool, what: str) -> str:
    return f" (wanted {what}: {'reached' if reached else 'missed'})"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
