"""Runs commands of this package in forked processes, with limits on time and memory (Linux only).

The server process imports PyTorch and the commands once. It forks a process for every command, which costs
milliseconds where a new interpreter costs seconds. A crash of the command ends the forked process alone, no state is
left for the next command, and the end of the process (exit handlers, threads) is the real one.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn

COMMANDS = ("train", "translate", "classify", "align", "evaluate", "average", "lexicon", "score")
IMPORTED = (
    *(f"nmt.cli.{name}" for name in COMMANDS),
    "datasets",
    "nmt.checkpoint.folder",
    "nmt.tasks.translation.evaluation",
    "nmt.tasks.translation.drawing",
    "nmt.tasks.components",
    "nmt.tasks.classification.labelling",
    "nmt.evaluation.testsets",
    "nmt.tasks.translation.text_translation",
    "nmt.tasks.training",
    "pyarrow.parquet",
    "torch._dynamo",
    "torch.utils.tensorboard",
    "tqdm",
)
"""Modules that the server imports before it forks. The commands import most of them late."""
CLOSED = "closed"
"""Instead of a file name: the command is started without this stream."""
SLOWEST_POLL = 0.02


@dataclass(frozen=True)
class Limits:
    """When a command is stopped."""

    seconds: float = 10.0
    """Processor time, and time in a row in which it uses next to none."""
    wall_seconds: float = 60.0
    """Elapsed time. It is longer because a busy machine slows down a command that is not at fault."""
    memory: int = 4 << 30
    """Resident bytes."""


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int | None
    """Exit code; None where a signal ended it or a limit stopped it."""
    signal: int | None = None
    stopped: str | None = None
    """The limit that stopped it."""
    seconds: float = 0.0
    """Processor time."""


class Server:
    """Client of the server process, which is started on first use and again when it has died."""

    def __init__(self, folder: Path, limits: Limits) -> None:
        self._home = folder / "home"
        self._home.mkdir(parents=True)
        self._limits = limits
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the server process."""
        if self._process is not None:
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            self._process.stdin.close()
            self._process.wait()
            self._process.stdout.close()
            self._process = None

    def run(
        self,
        module: str,
        arguments: Sequence[str],
        folder: Path,
        streams: tuple[str, str, str],
        limits: Limits | None = None,
    ) -> Ended:
        """Run `main()` of a module as a command, in `folder`.

        The streams are standard input, output and error: files there, or `CLOSED`.
        """
        if self._process is None:
            self._process = self._start()
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        request = {
            "module": module,
            "arguments": list(arguments),
            "folder": str(folder),
            "streams": streams,
            "limits": asdict(limits or self._limits),
        }
        try:
            process.stdin.write(json.dumps(request).encode() + b"\n")
            process.stdin.flush()
            answer = process.stdout.readline()
        except BrokenPipeError:
            answer = b""
        if not answer:
            self.close()
            raise RuntimeError("the server process of the fuzzer died; its messages are above")
        return Ended(**json.loads(answer))

    def _start(self) -> subprocess.Popen[bytes]:
        environment = os.environ | {
            "HOME": str(self._home),
            # Compiled kernels are taken from where the user has them: compiling takes longer than a case.
            "XDG_CACHE_HOME": os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache"),
            "TORCHINDUCTOR_CACHE_DIR": str(self._home / "inductor"),
            "HF_HUB_OFFLINE": "1",
            "HF_DATASETS_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
            # Threads that wait use no processor time, which would count as the command's.
            "OMP_WAIT_POLICY": "passive",
            "PYTHONUNBUFFERED": "",
        }
        return subprocess.Popen(
            [sys.executable, "-m", "scripts.fuzzing.server"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            cwd=Path(__file__).parents[2],
        )


def _serve() -> None:
    """Answer requests until standard input ends."""
    # The commands get standard streams of their own: requests and answers take other file descriptors.
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(nothing, 1)
    for name in IMPORTED:
        importlib.import_module(name)
    # What is imported is never collected: the collector would copy the memory that forked processes share.
    gc.collect()
    gc.freeze()
    for line in requests:
        request = json.loads(line)
        module = importlib.import_module(request["module"])
        pid = os.fork()
        if pid == 0:
            os.setsid()
            requests.close()
            answers.close()
            _become(request)
            _run(module.main)
        answers.write(json.dumps(asdict(_wait(pid, Limits(**request["limits"])))).encode() + b"\n")
        answers.flush()


def _become(request: dict[str, Any]) -> None:
    """Make this process look as if the command had been started in a shell."""
    os.chdir(request["folder"])
    os.environ["TMPDIR"] = str(Path(request["folder"]) / "tmp")
    tempfile.tempdir = None
    # Those that libraries registered in the server take longer than a command.
    atexit._clear()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for number, (name, stream) in enumerate(zip(request["streams"], ("stdin", "stdout", "stderr"), strict=True)):
        if name == CLOSED:
            os.close(number)
            setattr(sys, stream, None)
        else:
            opened = os.open(name, os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
            os.dup2(opened, number)
            os.close(opened)
    sys.argv = [request["module"].rsplit(".", 1)[-1], *request["arguments"]]


def _run(main: Callable[[], object]) -> NoReturn:
    """Run a command and end this process as the interpreter would, but without freeing its memory piece by piece."""
    code: object = 0
    try:
        main()
    except SystemExit as ended:
        code = ended.code
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = 1
    threading._shutdown()  # type: ignore[attr-defined]  # Waits for threads, as the interpreter does.
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except OSError:
            code = 120
    os._exit(code if isinstance(code, int) else int(code is not None))


def _wait(pid: int, limits: Limits) -> Ended:
    start = time.monotonic()
    pause, used, last_used, stopped = 0.001, 0.0, start, None
    while True:
        done, status, usage = os.wait4(pid, os.WNOHANG)
        if done:
            break
        time.sleep(pause)
        pause = min(2 * pause, SLOWEST_POLL)
        now = time.monotonic()
        seconds, memory = _usage(pid)
        if seconds > used + 0.05:
            used, last_used = seconds, now
        if seconds > limits.seconds:
            stopped = f"hang: more than {limits.seconds:g} s of processor time"
        elif now - last_used > limits.seconds:
            stopped = f"hang: nothing done for {limits.seconds:g} s"
        elif now - start > limits.wall_seconds:
            stopped = f"hang: more than {limits.wall_seconds:g} s"
        elif memory > limits.memory:
            stopped = f"memory: more than {limits.memory / (1 << 30):g} GiB"
        if stopped:
            os.kill(pid, signal.SIGKILL)
            _, status, usage = os.wait4(pid, 0)
            break
    # Processes that the command started and left behind.
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
    seconds = usage.ru_utime + usage.ru_stime
    if stopped:
        return Ended(None, None, stopped, seconds)
    if os.WIFSIGNALED(status):
        return Ended(None, os.WTERMSIG(status), None, seconds)
    return Ended(os.WEXITSTATUS(status), None, None, seconds)


def _usage(pid: int) -> tuple[float, int]:
    """Seconds of processor time, of children too, and resident bytes."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return 0.0, 0
    ticks = sum(map(int, fields[11:15]))
    return ticks / os.sysconf("SC_CLK_TCK"), pages * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    _serve()
