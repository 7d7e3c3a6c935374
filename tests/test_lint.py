"""The linter's verdict depends on tracked files alone."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
IGNORED = ("runs", "build", "dist", "cache")
"""Folders that git ignores or that a user makes; a Python module of each name could exist."""

SAMPLE = f"""\
import sys

{"".join(f"import {name}{chr(10)}" for name in sorted((*IGNORED, "numpy")))}
import nmt

print(sys, {", ".join(IGNORED)}, numpy, nmt)
"""


def lint(folder: Path) -> str:
    ruff = [sys.executable, "-m", "ruff", "check", "--no-cache", "--select", "I", "sample.py"]
    return subprocess.run(ruff, cwd=folder, capture_output=True, text=True, timeout=60).stdout


def test_ignored_folders_do_not_change_the_order_of_imports(tmp_path: Path) -> None:
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / "sample.py").write_text(SAMPLE, encoding="utf-8")
    assert lint(tmp_path) == "All checks passed!\n"
    for name in IGNORED:
        (tmp_path / name).mkdir()
        (tmp_path / name / "module.py").write_text("", encoding="utf-8")
    assert lint(tmp_path) == "All checks passed!\n"
