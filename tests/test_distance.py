"""How many files a reader opens to follow one batch through training, or one line through translation."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import nmt
from nmt.cli import train, translate
from nmt.training.trainer import Trainer
from tests.support.commands import Call
from tests.support.training_runs import CONFIG, write_corpus

PACKAGE = Path(nmt.__file__).parent

MOST_OF_A_BATCH = 24
MOST_OF_A_LINE = 12


class FilesRun:
    """Notes the files of the package whose functions are called on this thread, while `on` is true."""

    def __init__(self) -> None:
        self.on = False
        self.names: set[str] = set()

    def __call__(self, frame: FrameType, event: str, argument: object) -> None:
        if self.on and event == "call":
            path = Path(frame.f_code.co_filename)
            if path.is_relative_to(PACKAGE):
                self.names.add(path.relative_to(PACKAGE).as_posix())

    @contextmanager
    def profiling(self) -> Iterator[None]:
        sys.setprofile(self)
        try:
            yield
        finally:
            sys.setprofile(None)


def test_one_micro_batch_runs_few_files(tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forward and backward of a batch after the first: a GRU, additive attention, a lexical model, C kernels."""
    write_corpus(tmp_path)
    (tmp_path / "run.yaml").write_text(CONFIG.format(folder=tmp_path))
    files = FilesRun()
    forward_backward = Trainer.forward_backward
    batches = 0

    def noted(*arguments: Any, **options: Any) -> Any:
        nonlocal batches
        batches += 1
        files.on = batches > 1
        try:
            return forward_backward(*arguments, **options)
        finally:
            files.on = False

    monkeypatch.setattr(Trainer, "forward_backward", noted)
    with files.profiling():
        ended = call(train.main, "--config", tmp_path / "run.yaml", "--set", "training.max_steps=2")
    assert ended.code == 0, ended.errors
    assert {"model/translator.py", "training/trainer.py"} <= files.names
    assert len(files.names) <= MOST_OF_A_BATCH, " ".join(sorted(files.names))


class Line(io.BytesIO):
    """A line of text, which starts the notes when it is read."""

    def __init__(self, text: bytes, files: FilesRun) -> None:
        super().__init__(text)
        self.files = files

    def _note(self) -> None:
        self.files.on = True

    def read(self, size: int | None = -1) -> bytes:
        self._note()
        return super().read(size)

    def read1(self, size: int | None = -1) -> bytes:
        self._note()
        return super().read1(-1 if size is None else size)

    def readline(self, size: int | None = -1) -> bytes:
        self._note()
        return super().readline(size)


def test_one_line_runs_few_files_beside_the_model(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    files = FilesRun()
    stdin = io.TextIOWrapper(Line(b"zwei frauen lesen .\n", files))
    monkeypatch.setattr(sys, "argv", ["nmt-translate", "--model", str(checkpoint)])
    monkeypatch.setattr(sys, "stdin", stdin)
    with files.profiling(), pytest.raises(SystemExit) as ended:
        translate.main()
    assert ended.value.code in (0, None)
    assert capfdbinary.readouterr().out.decode() == "two women read .\n"
    beside = {name for name in files.names if not name.startswith(("model/", "kernels/"))}
    assert any(name.startswith("search/") for name in beside)
    assert len(beside) <= MOST_OF_A_LINE, " ".join(sorted(beside))
