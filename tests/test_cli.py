"""Versions, unknown options and arguments that name no usable file, for all commands."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import nmt
from nmt.cli import align, average, classify, evaluate, train, translate
from nmt.cli.common import output_files
from nmt.errors import DataError
from tests.support.commands import Call

ROOT = Path(__file__).parents[1]


def test_every_command_tells_its_version_without_pytorch() -> None:
    check = (
        "import importlib, sys\n"
        "for name in ('train', 'translate', 'evaluate', 'classify', 'align', 'average', 'lexicon', 'score'):\n"
        "    sys.argv = ['command', '--version']\n"
        "    try: importlib.import_module(f'nmt.cli.{name}').main()\n"
        "    except SystemExit as ended: assert not ended.code\n"
        "assert 'torch' not in sys.modules"
    )
    ended = subprocess.run([sys.executable, "-c", check], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stderr) == (0, "")
    commands = ("train", "translate", "eval", "classify", "align", "average", "lexicon", "score")
    assert ended.stdout.splitlines() == [f"nmt-{name} (nmt-attention) {nmt.__version__}" for name in commands]


@pytest.mark.parametrize(
    ("main", "arguments", "option"),
    [
        (train.main, ["--config", ""], "--config"),
        (train.main, ["--config", "a", "--set", ""], "--set"),
        (translate.main, ["--model", "a", "--model", ""], "--model"),
        (translate.main, ["--model", "a", "--input", ""], "--input"),
        (translate.main, ["--model", "a", "--plot", ""], "--plot"),
        (evaluate.main, ["--model", "a", "--source", "b", "--reference", "c", ""], "--reference"),
        (classify.main, ["--model", "a", "--output", ""], "--output"),
        (align.main, ["--model", "a", "--source", "b", "--target", ""], "--target"),
        (average.main, ["", "--output", "a"], "RUN"),
    ],
)
def test_an_empty_name_is_not_the_current_folder(
    call: Call, main: Callable[[], None], arguments: list[str], option: str
) -> None:
    ended = call(main, *arguments)
    assert (ended.code, ended.output) == (2, "")
    assert ended.errors.endswith(f": {option}: must not be empty\n")


def test_a_name_is_not_longer_than_a_thousand_characters(call: Call) -> None:
    for arguments, option in (
        (["--model", "a", "--input", "b/" * 501], "--input"),
        (["--model", "a", "--plot", "b/" * 501], "--plot"),
    ):
        ended = call(translate.main, *arguments)
        assert ended.code == 2
        assert ended.errors == f"nmt-translate: {option}: must have at most 1,000 characters\n"


def test_an_error_of_the_command_line_is_one_line_without_control_characters(call: Call) -> None:
    ended = call(train.main, "--x\x1b[31m\r\u2028y")
    assert (ended.code, ended.errors.count("\n"), "\x1b" in ended.errors) == (2, 1, False)


def test_two_test_sets_are_never_written_to_one_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"several test sets would be written to .*test\.de"):
        output_files(str(tmp_path), ["2016/test", "2017/test"], "de")
    assert output_files(str(tmp_path), ["2016", "2017"], "de") == [tmp_path / "2016.de", tmp_path / "2017.de"]
