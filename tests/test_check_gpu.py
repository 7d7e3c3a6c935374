"""`scripts/check_gpu` runs everything that needs a GPU, continues after failures, and reports at the end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from scripts.benchmarks.summary import lines, main

ROOT = Path(__file__).parent.parent
STUB = """#!{python}
import json, os, sys
arguments = sys.argv[1:]
with open({log!r}, "a") as stream:
    stream.write(json.dumps(arguments) + "\\n")
if arguments[:2] == ["-m", "scripts.benchmarks.summary"]:
    os.execv({python!r}, [{python!r}, *arguments])
if "--json" in arguments:
    with open(arguments[arguments.index("--json") + 1], "w") as stream:
        stream.write('{{"results": []}}')
sys.exit(1 if {fails!r} and {fails!r} in arguments else 0)
"""


def check_gpu(folder: Path, *arguments: str, fails: str = "") -> tuple[int, str, list[list[str]]]:
    """Exit code, output and every command, with another Python that finds a GPU."""
    python, log = folder / "python", folder / "log"
    python.write_text(STUB.format(python=sys.executable, log=str(log), fails=fails))
    python.chmod(0o755)
    environment = {**os.environ, "NMT_PYTHON": str(python), "NMT_NO_SETUP": "1", "NMT_RESULTS": str(folder / "found")}
    done = subprocess.run(
        [str(ROOT / "scripts" / "check_gpu"), *arguments], env=environment, capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout + done.stderr, [json.loads(line) for line in log.read_text().splitlines()]


def test_everything_that_needs_a_gpu_is_run(tmp_path: Path) -> None:
    code, output, commands = check_gpu(tmp_path, "--rounds", "2", "--batch-tokens", "512", "--quick")
    assert code == 0, output
    looked, tests, *measured, summary = commands
    assert looked[0] == "-c"
    assert tests == ["-m", "pytest", "-m", "gpu", "tests"]
    names = ["bahdanau2015", "nematus2017", "luong2015_global_general", "luong2015_global_dot"]
    given = ["--rounds", "2", "--batch-tokens", "512", "--quick"]
    common = ["--rounds", "2", "--quick"]
    expected = [(name, ["training", *given, "--attention", name]) for name in names]
    expected += [
        ("gnmt_v2", ["gnmt_v2", "--precision", "bf16", *common]),
        ("translation", ["translation", "--precision", "fp32", "bf16", *common]),
    ]
    files = tmp_path / "found"
    assert measured == [
        ["-m", "scripts.benchmarks", *command, "--device", "cuda", "--json", f"{files}/{name}.json"]
        for name, command in expected
    ]
    assert summary == ["-m", "scripts.benchmarks.summary", str(files)]
    assert output.strip().endswith("nothing failed")


@pytest.mark.parametrize(("fails", "name"), [("pytest", "tests"), ("training", "bahdanau2015"), ("gnmt_v2", "gnmt_v2")])
def test_what_fails_keeps_nothing_from_running_and_is_named(tmp_path: Path, fails: str, name: str) -> None:
    code, output, commands = check_gpu(tmp_path, fails=fails)
    assert code == 1
    assert len(commands) == 9
    assert name in output.strip().splitlines()[-1].removeprefix("  failed: ").split(", ")


def test_without_a_gpu_there_is_nothing_to_check(tmp_path: Path) -> None:
    code, _, commands = check_gpu(tmp_path, fails="-c")
    assert code == 1
    assert len(commands) == 1


def result(kernel: str, tokens: float, times: float, share: float | None = None) -> dict[str, Any]:
    launching = {} if share is None else {"launching": {"share_of_allowed": share}}
    both = {"source_and_target_tokens_per_second": tokens, "times_reference": [times, times, times]}
    return {"precision": "bf16", "kernel": kernel, **both, **launching}


def test_a_summary_says_what_is_reached() -> None:
    reports = {
        "bahdanau2015": {"results": [result("reference", 1e3, 1.0, 0.2), result("fused", 8e3, 8.0, 0.49)]},
        "gnmt_v2": {"results": [result("fused loss", 420_001.0, 1.1)]},
        "translation": {
            "results": [{"precision": "fp32", "batch": 64, "beam": 5, "sentences_per_second": 12.34, "processes": 1}]
        },
    }
    assert list(lines(reports, [])) == [
        "bahdanau2015, bf16, reference: 1,000 source and target tokens/s, 20% of what products and launches allow",
        "bahdanau2015, bf16, fused: 8,000 source and target tokens/s, 8.0 times the plain loop (wanted 8: reached), "
        "49% of what products and launches allow (wanted 50%: missed)",
        "gnmt_v2, bf16, fused loss: 420,001 source and target tokens/s (wanted more than 420,000 on an H200: reached), "
        "1.1 times the plain loop",
        "translation, fp32, batch 64, beam 5: 12.3 sentences/s",
        "nothing failed",
    ]
    missed = {"gnmt_v2": {"results": [result("fused loss", 420_000.0, 1.1)]}}
    assert "420,000 on an H200: missed" in next(lines(missed, []))


def test_a_summary_of_failures_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == 0
    assert main([str(tmp_path), "tests", "gnmt_v2"]) == 1
    assert capsys.readouterr().out.splitlines()[-1] == "  failed: tests, gnmt_v2"
