"""A case of the fuzzer: files, the commands that meet them, and what counts as a failure."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import nmt
from scripts.fuzzing.server import COMMANDS, Ended, Limits, Server

USER_ERROR = 2
TRACEBACK = "Traceback (most recent call last)"
NOTHING = os.devnull


@dataclass(frozen=True)
class Link:
    """A symbolic link."""

    target: str


@dataclass(frozen=True)
class Folder:
    """An empty folder."""


@dataclass(frozen=True)
class Pipe:
    """A named pipe that nobody writes to."""


Files = Mapping[str, "bytes | Link | Folder | Pipe"]
"""Content by path, relative to the folder of the case."""


@dataclass(frozen=True)
class Command:
    """A command as a user types it."""

    name: str
    """`train` for nmt-train; other names are modules that have a `main`."""
    arguments: Sequence[str]
    stdin: str = NOTHING
    stdout: str = "stdout"
    check_output: Callable[[bytes], str | None] | None = None
    """Returns the fault in the output of a command that succeeded, or None."""

    @property
    def module(self) -> str:
        return f"nmt.cli.{self.name}" if self.name in COMMANDS else self.name

    def __str__(self) -> str:
        return f"{shlex.join(['python', '-m', self.module, *self.arguments])} < {self.stdin} > {self.stdout}"


@dataclass(frozen=True)
class Case:
    """Files, and commands that run one after the other until one fails."""

    files: Files
    commands: Sequence[Command]
    note: str = ""
    """Describes the changes of the files."""

    def __repr__(self) -> str:
        return f"{self.note}: {'; '.join(map(str, self.commands))}"[:2000]


@dataclass(frozen=True)
class Failure:
    """Failure of a command in a case."""

    what: str
    """One line; cases with the same line count as one fault."""
    command: Command
    errors: str = field(compare=False)
    """Standard error of the command."""


@dataclass
class Tally:
    """Counts over all commands that were run."""

    accepted: int = 0
    refused: int = 0
    slowest: float = 0.0
    """Processor seconds of the slowest command."""


class Workshop:
    """A temporary folder in which cases are tried."""

    def __init__(self, folder: Path, limits: Limits | None = None) -> None:
        self.folder = folder
        self.server = Server(folder, limits or Limits())
        self.tally = Tally()
        self._case = folder / "case"
        self._kept: set[str] | None = None

    def __enter__(self) -> Workshop:
        return self

    def __exit__(self, *_: object) -> None:
        self.server.close()

    def attempt(self, case: Case) -> Failure | None:
        """Run the commands of a case; the first failure, if there is one."""
        shutil.rmtree(self._case, ignore_errors=True)
        write_files(self._case, case.files)
        (self._case / "tmp").mkdir()
        before = self._listing()
        for command in case.commands:
            ended = self.server.run(
                command.module, command.arguments, self._case, (command.stdin, command.stdout, "stderr")
            )
            errors = _text(self._case / "stderr")
            what = self._judge(command, ended, errors)
            if what is None and self._listing() != before:
                what = f"files beside the folder of the case: {sorted(self._listing() ^ before)}"
            if what is None and (left := sorted(os.listdir(self._case / "tmp"))):
                what = f"temporary files left behind: {re.sub('[0-9a-z_]{8}$', '*', left[0])}"
            if what is not None:
                return Failure(what, command, errors)
            self.tally.slowest = max(self.tally.slowest, ended.seconds)
            if ended.code != 0:
                self.tally.refused += 1
                return None
            self.tally.accepted += 1
        return None

    def _listing(self) -> set[str]:
        return set(os.listdir(self.folder))

    def _judge(self, command: Command, ended: Ended, errors: str) -> str | None:
        if ended.stopped is not None:
            return ended.stopped
        if ended.signal is not None:
            return f"crash: {signal.Signals(ended.signal).name}"
        if TRACEBACK in errors:
            return _summary(errors)
        if ended.code not in (0, USER_ERROR):
            return f"exit code {ended.code}"
        if ended.code == USER_ERROR:
            return None if errors.strip() else "exit code 2 without a message"
        if command.check_output is not None:
            output = self._case / command.stdout
            return command.check_output(output.read_bytes() if output.is_file() else b"")
        return None


def write_files(folder: Path, files: Files) -> None:
    """Write files below a folder, which is made."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        match content:
            case Link(target):
                path.symlink_to(target)
            case Folder():
                path.mkdir()
            case Pipe():
                os.mkfifo(path)
            case bytes():
                path.write_bytes(content)


def read_files(folder: Path) -> dict[str, bytes]:
    """The files below a folder, by their paths relative to it."""
    paths = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def save_failure(folder: Path, case: Case, failure: Failure) -> None:
    """Write a case that failed, so that it can be run again by hand."""
    shutil.rmtree(folder, ignore_errors=True)
    write_files(folder / "case", case.files)
    lines = [failure.what, "", f"input: {case.note}", f"in the folder {folder / 'case'}:"]
    lines += [f"{'failed: ' if command is failure.command else ''}{command}" for command in case.commands]
    (folder / "failure.txt").write_text("\n".join([*lines, "", failure.errors]), encoding="utf-8", errors="replace")


def _text(path: Path) -> str:
    return path.read_bytes().decode("utf-8", "replace") if path.exists() else ""


def _summary(errors: str) -> str:
    """The kind of the last exception, and the last line of this package that it went through."""
    raised = [
        line for line in errors.splitlines() if re.match(r"[A-Za-z_][\w.]*(Error|Exception|Interrupt|Warning)\b", line)
    ]
    # By the package's own folder: the folder of the checkout may have the same name.
    root = re.escape(str(Path(nmt.__file__).parents[1]))
    places = re.findall(rf'File "{root}/(nmt/[^"]*)", line (\d+)', errors)
    kind = re.split(r"[:( ]", raised[-1])[0] if raised else "unknown exception"
    return f"traceback: {kind} at {':'.join(places[-1]) if places else 'an unknown place'}"
