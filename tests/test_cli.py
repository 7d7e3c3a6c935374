"""What all commands share: versions, unknown options, and arguments that name no usable file."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import nmt

ROOT = Path(__file__).parents[1]


def test_every_command_tells_its_version_without_pytorch() -> None:
    check = (
        "import importlib, sys\n"
        "for name in ('train', 'translate', 'evaluate', 'classify', 'align', 'average', 'lexicon'):\n"
        "    sys.argv = ['command', '--version']\n"
        "    try: importlib.import_module(f'nmt.cli.{name}').main()\n"
        "    except SystemExit as ended: assert not ended.code\n"
        "assert 'torch' not in sys.modules"
    )
    ended = subprocess.run([sys.executable, "-c", check], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stderr) == (0, "")
    commands = ("train", "translate", "eval", "classify", "align", "average", "lexicon")
    assert ended.stdout.splitlines() == [f"nmt-{name} (nmt-attention) {nmt.__version__}" for name in commands]
