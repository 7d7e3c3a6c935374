"""`scripts/check_gpu`: its stages, what fails in them, and what it needs. The GPU itself is in test_gpu.py."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
import torch

from scripts.gpu import __main__ as check_gpu
from scripts.gpu import facts, gradients, multi30k
from scripts.gpu.__main__ import Outcome, Step, lines, run_stage

ROOT = Path(__file__).parent.parent
OPTIONAL = ("datasets", "zstandard", "hypothesis", "entmax", "matplotlib", "jsonschema", "sklearn", "playwright")
"""Packages that a bare machine with a GPU lacks."""
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_every_stage_says_so_and_nothing_fails(tmp_path: Path) -> None:
    done = subprocess.run(
        [str(ROOT / "scripts" / "check_gpu"), "--results", str(tmp_path)],
        env={**os.environ, "NMT_PYTHON": sys.executable},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    *stages, end = done.stdout.splitlines()
    assert stages == [f"stage {number}: no GPU" for number in (1, 2, 3, 4)]
    assert end == f"nothing failed; figures and logs: {tmp_path}"
    for number in (1, 2, 3, 4):
        report = json.loads((tmp_path / f"stage-{number}.json").read_text())
        assert (report["stage"], report["card"], report["steps"]) == (number, "no GPU", [])


def test_what_fails_keeps_nothing_from_running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = [
        Step("fails", ("-c", "print('first'); raise SystemExit('the reason')"), 60),
        Step("figures", ("-c", f"open(r'{tmp_path}/figures.json', 'w').write('{{\"lines\": [\"a figure\"]}}')"), 60),
        Step("no data", ("-c", ""), 60, "data/there is no such file"),
    ]
    failed, figures, absent = run_stage(steps, ENVIRONMENT, tmp_path)
    assert (failed.status, failed.is_fault, failed.said) == ("failed", True, ["first", "the reason"])
    assert (figures.status, figures.is_fault) == ("passed", False)
    assert list(lines(figures))[1:] == ["  a figure"]
    assert (absent.status, absent.is_fault) == ("left out", False)
    assert absent.said == ["data/there is no such file is missing"]
    monkeypatch.setattr(check_gpu, "STAGE_SECONDS", 0.5)
    (late,) = run_stage(steps[:1], ENVIRONMENT, tmp_path)
    assert late.status == "left out"


def test_a_step_that_takes_too_long_ends_with_its_children(tmp_path: Path) -> None:
    code = (
        "import subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "print(child.pid, flush=True)\nchild.wait()"
    )
    start = time.monotonic()
    (outcome,) = run_stage([Step("slow", ("-c", code), 8)], ENVIRONMENT, tmp_path)
    assert (outcome.status, outcome.is_fault) == ("took too long", True)
    assert time.monotonic() - start < 60
    (child,) = outcome.said
    for _ in range(100):
        if not Path(f"/proc/{child}").exists():
            break
        time.sleep(0.1)
    state = Path(f"/proc/{child}/status")
    assert not state.exists() or "(zombie)" in state.read_text()


def test_the_summary_names_speeds_and_gradients_that_are_off() -> None:
    result = {
        "precision": "bf16",
        "kernel": "fused",
        "tokens_per_second": 1.6e6,
        "source_and_target_tokens_per_second": 3.1e6,
        "share_of_bound": 0.2,
        "times_reference": [8.0, 7.9, 8.1],
        "launching": {"launches": 350.0},
        "gradient_difference": 0.5,
    }
    assert list(lines(Outcome("bahdanau2015", "passed", 12.3, figures={"results": [result]}))) == [
        "bahdanau2015: passed after 12 s",
        "  bf16 fused: 1,600,000 target and 3,100,000 source + target tokens/s, 20% of the products' bound, 8.0 times "
        "reference, 350 launches, gradients 5.0e-01 apart",
        "  warning: bf16 fused: the gradients are off",
        "  an H200 should reach 3,000,000 source + target tokens/s: reached",
    ]
    translation = {"precision": "fp32", "batch": 64, "beam": 5, "sentences_per_second": 12.3}
    figures = {"results": [translation], "warnings": ["something"]}
    assert list(lines(Outcome("translation", "passed", 1.0, figures=figures)))[1:] == [
        "  fp32, 64 at once, beam 5: 12 sentences/s",
        "  warning: something",
    ]


def test_wheels_in_a_folder_take_the_place_of_what_is_not_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check_gpu, "NEEDED", {"nmt_from_a_wheel": "from-a-wheel", "torch.nowhere": "nothing"})
    assert check_gpu._missing(ENVIRONMENT) == ["from-a-wheel", "nothing"]
    with zipfile.ZipFile(tmp_path / "from_a_wheel-1-py3-none-any.whl", "w") as wheel:
        wheel.writestr("nmt_from_a_wheel/__init__.py", "")
    assert check_gpu._missing(check_gpu._environment(tmp_path, tmp_path / "results")) == ["nothing"]


def test_tests_of_gpus_are_collected_without_optional_packages(tmp_path: Path) -> None:
    steps = {step.name: step for step in check_gpu.stages("cuda", False, tmp_path)[1]}
    code = (
        "import sys, importlib.abc, pytest\n"
        "class Absent(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path, target=None):\n"
        f"        if name.partition('.')[0] in {OPTIONAL!r}:\n"
        "            raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Absent())\n"
        "sys.exit(pytest.main(sys.argv[1:]))\n"
    )
    command = [*steps["tests"].command[2:], "-qq", "--collect-only"]
    assert "tests/test_gpu.py" in command
    done = subprocess.run(
        [sys.executable, "-c", code, *command],
        cwd=ROOT,
        env={**ENVIRONMENT, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert "test_gpu.py::test_an_update_never_waits" in done.stdout


def test_facts_without_a_gpu() -> None:
    found = facts.report(torch.device("cpu"))
    assert found["versions"]["torch"] == torch.__version__
    assert found["product_flops"]["float32"] > 0
    assert found["warnings"] == []
    output, saved = facts.layer_dtypes(torch.nn.LSTM(4, 4), torch.bfloat16)
    assert {output, *saved} <= {"bfloat16", "float32"}


def test_gradients_of_this_machine_are_those_of_float64(tmp_path: Path) -> None:
    assert gradients.main(["--device", "cpu", "--quick", "--json", str(tmp_path / "gradients.json")]) == 0
    report = json.loads((tmp_path / "gradients.json").read_text())
    assert len(report["distances"]) == 2 * len(report["lines"]) / 2 == 8
    assert all(0.0 < each["auto"] < 1e-4 for each in report["distances"] if each["format"] == "fp32")
    result = {"attention": "a", "format": "bf16", "auto": 0.5, "reference": 0.2, "largest of auto": "the gradient of b"}
    assert gradients._warning(result).startswith("a in bf16: the gradient of b by auto is 5.0e-01 away")
    assert gradients._warning(result | {"auto": 0.3}) == ""


def test_a_score_far_from_that_of_a_cpu_is_a_warning() -> None:
    text = json.dumps({"sets": [{"scores": {"bleu": {"value": 38.5}}}]})
    figures = multi30k.report(text, "killed after step-4, resumed", 61.0, "bf16", quick=False)
    assert figures["lines"] == [
        "bf16: BLEU 38.50 after 61 s of training, killed after step-4, resumed; 39.46 in float32 on a CPU"
    ]
    assert figures["warnings"] == ["bf16: BLEU is more than 0.5 away from that of a CPU"]
    early = multi30k.report(text, "ended with exit code 2 before it could be killed", 1.0, "bf16", quick=True)
    assert early["warnings"] == ["the training ended with exit code 2 before it could be killed"]
