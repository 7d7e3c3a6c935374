"""Work that processes share out is that of one process, and the workers end when they should."""

from __future__ import annotations

import operator
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from nmt.concurrency import Workers
from nmt.config.schema import SearchConfig
from nmt.errors import NmtError
from nmt.runtime.worker_pool import LARGE_BATCH, WorkerPool, divide_threads
from nmt.tasks.translation.loading import System, load_model
from nmt.tasks.translation.text_translation import Request, translate_lines
from tests.support.models import CPU, SOURCES

ROOT = Path(__file__).parent.parent
KILLED = NmtError("a worker was killed")


@pytest.fixture(scope="module")
def workers() -> Iterator[Workers[str, dict[str, int], Any]]:
    """They evaluate expressions in which x is 7."""
    with closing(Workers(eval, dict, ([("x", 7)],), 2, KILLED)) as pool:
        yield pool


def test_parts_are_done_by_other_processes_and_all_come_back(workers: Workers[str, dict[str, int], Any]) -> None:
    found = dict(workers.as_finished([f"({number} * x, __import__('os').getpid())" for number in range(20)]))
    assert {number: value for number, (value, _) in found.items()} == {number: 7 * number for number in range(20)}
    assert os.getpid() not in {process for _, process in found.values()}


def test_a_stream_is_done_in_order_and_not_read_far_ahead(workers: Workers[str, dict[str, int], Any]) -> None:
    read: list[int] = []

    def stream() -> Iterator[str]:
        for number in range(30):
            read.append(number)
            yield f"{number} * x"

    for number, (part, result) in enumerate(workers.in_order(stream())):
        assert (part, result) == (f"{number} * x", number * 7)
        assert len(read) <= number + 8


def test_what_a_part_raises_is_raised_here_and_a_killed_worker_is_one_clear_line() -> None:
    with closing(Workers(eval, dict, (), 1, KILLED)) as pool:
        with pytest.raises(ZeroDivisionError):
            list(pool.as_finished(["3", "1 / 0"]))
        assert dict(pool.as_finished(["5"])) == {0: 5}
        with pytest.raises(NmtError, match="a worker was killed"):
            list(pool.as_finished(["__import__('os')._exit(3)"]))


@pytest.mark.parametrize(
    ("threads", "parts", "sentences", "expected"),
    [
        (1, 9, 9, (1, 1)),
        (2, 9, 9, (2, 1)),
        (2, 9, 9 * LARGE_BATCH, (1, 2)),
        (3, 9, 9 * LARGE_BATCH, (1, 3)),
        (4, 9, 9 * LARGE_BATCH, (2, 2)),
        (16, 9, 9 * LARGE_BATCH - 1, (9, 1)),
        (16, 3, 3 * LARGE_BATCH, (3, 5)),
        (16, 1, 500, (1, 16)),
        (16, 0, 0, (1, 16)),
    ],
)
def test_threads_are_divided_by_how_large_batches_are(
    threads: int, parts: int, sentences: int, expected: tuple[int, int]
) -> None:
    assert divide_threads(threads, parts, sentences) == expected


PARTS: list[Any] = [partial(operator.add, number) for number in range(6)]


def test_workers_are_started_once_it_is_worth_it() -> None:
    patient, busy = WorkerPool(2), WorkerPool(2, start_after=0.0)
    expected = {number: 100 + number for number in range(6)}
    assert dict(patient.run(100, PARTS, 6)) == expected
    assert patient.workers is None
    with closing(busy):
        assert dict(busy.run(100, PARTS, 6)) == expected  # the workers are still starting
        assert busy.workers is not None
        while not busy.workers.ready:
            time.sleep(0.05)
        assert dict(busy.run(100, PARTS, 6)) == expected
        # Large batches have two threads.
        alone = WorkerPool(2, start_after=0.0)
        alone.threads_help = True
        assert dict(alone.run(100, PARTS, 6 * LARGE_BATCH)) == expected
        assert alone.workers is None


def threads_of(number: int, system: int) -> int:
    return torch.get_num_threads()


@pytest.mark.parametrize(("help", "threads"), [(True, 2), (False, 1)])
def test_a_process_that_works_alone_has_threads_where_they_help(help: bool, threads: int) -> None:
    before, pool = torch.get_num_threads(), WorkerPool(2)
    pool.threads_help = help
    assert dict(pool.run(0, [partial(threads_of, number) for number in range(2)], 2)) == {0: threads, 1: threads}
    assert torch.get_num_threads() == before


@pytest.fixture
def set_threads() -> Iterator[Callable[[int], None]]:
    """Sets the threads of this process for a test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def test_a_translation_does_not_depend_on_the_number_of_processes(
    system: System, checkpoint: Path, set_threads: Callable[[int], None]
) -> None:
    """Every line a batch of its own, by one process and by two with as many threads: pieces, scores, attention.

    Prepacked weights are sent.
    """
    set_threads(1)
    runtimes = (replace(CPU, weights=precision) for precision in ("fp32", "int8"))
    ensemble = tuple(load_model(checkpoint, None, runtime).translator for runtime in runtimes)
    system = replace(system, translators=ensemble)
    lines = [*SOURCES, "", *SOURCES]
    with closing(WorkerPool(2)) as pool:
        pool.start(replace(system, pool=None), 2, 1)
        assert pool.workers is not None
        for kind in ("beam", "sampling"):
            search = SearchConfig(kind=kind, beam_size=3, batch_tokens=1)
            done: list[int] = []
            wanted = Request(n_best=2, attention=True, seed=3)
            expected = translate_lines(replace(system, pool=None), lines, search, wanted)
            while not pool.workers.ready:
                time.sleep(0.05)
            found = translate_lines(replace(system, pool=pool), lines, search, wanted, advance=done.append)
            assert found == expected
            for one, other in zip(found, expected, strict=True):
                for left, right in zip(one, other, strict=True):
                    assert left.attention is not None
                    assert right.attention is not None
                    assert (left.attention == right.attention).all()
            assert sum(done) == len(lines)


@torch.inference_mode()
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_translation_depends_on_the_number_of_threads_by_rounding_alone(
    system: System, checkpoint: Path, set_threads: Callable[[int], None], precision: Any
) -> None:
    """The same bits where no product of float32 is divided among threads; else scores as close as sums in any order."""
    translator = load_model(checkpoint, None, replace(CPU, weights=precision)).translator
    system = replace(system, translators=(translator,), pool=None)
    rounding = rounding_of_a_product(load_model(checkpoint, None, CPU).translator)
    results = []
    for count in (1, 2, 3):
        set_threads(count)
        results.append(translate_lines(system, SOURCES * 3, SearchConfig(beam_size=3), Request(n_best=3)))
    expected, *others = results
    for found in others:
        if precision == "int8":
            assert found == expected
        for one, other in zip(expected, found, strict=True):
            assert [translation.text for translation in one] == [translation.text for translation in other]
            for left, right in zip(one, other, strict=True):
                # The errors of the steps before a piece, those of the source included, add up in its state.
                steps = len(left.source_pieces) + len(left.pieces) + 2  # with both ends
                assert left.pieces == right.pieces
                assert left.piece_log_probabilities == pytest.approx(
                    right.piece_log_probabilities, rel=0, abs=steps * rounding
                )


def rounding_of_a_product(network: torch.nn.Module) -> float:
    """How far two orders of a product's sums are apart in float32, for inputs of at most one, as states are.

    A sum of n terms has an error of about sqrt(n) u times the sum of their magnitudes, with the unit roundoff u (Higham
    and Mary 2019, "A new approach to probabilistic rounding error analysis"); two orders are twice as far apart.
    """
    weights = [weight.flatten(1) for weight in network.parameters() if weight.dim() > 1]
    unit = torch.finfo(torch.float32).eps / 2
    return max(2 * weight.shape[1] ** 0.5 * unit * float(weight.abs().sum(1).max()) for weight in weights)


WAITING = """
import os, sys, time
from nmt.concurrency import Workers
from nmt.errors import NmtError

def begin():
    if sys.argv[1] == "starting":
        time.sleep(600)

def work(part, means):
    os.write(1, b'%d\\n' % part)  # one write: the processes share the pipe
    time.sleep(600)

if __name__ == "__main__":
    try:
        workers = Workers(work, begin, (), 2, NmtError("killed"))
        if sys.argv[1] == "starting":
            print("1\\n2", flush=True)
        list(workers.as_finished([1, 2, 3]))
    except KeyboardInterrupt:
        workers.close()
        print("interrupted", flush=True)
"""


@pytest.mark.parametrize(
    ("at", "number", "said", "code"),
    [
        ("starting", signal.SIGINT, "interrupted\n", 0),
        ("work", signal.SIGINT, "interrupted\n", 0),
        ("work", signal.SIGKILL, "", -signal.SIGKILL),
    ],
)
def test_workers_end_with_their_process(at: str, number: int, said: str, code: int, tmp_path: Path) -> None:
    """After Ctrl-C in a terminal, which sends it to the whole group, and after a kill, at once."""
    script = tmp_path / "waiting.py"
    script.write_text(WAITING)
    process = subprocess.Popen(
        [sys.executable, script, at],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert process.stdout is not None
    assert {process.stdout.readline(), process.stdout.readline()} == {"1\n", "2\n"}
    if number == signal.SIGKILL:
        process.kill()
    else:
        os.killpg(process.pid, number)
    # The pipes are closed when the last process that has them is gone.
    written, errors = process.communicate(timeout=60)
    assert (written, process.returncode) == (said, code)
    if number == signal.SIGINT:  # of a process that was killed Python may say which semaphores it has cleaned up
        assert errors == ""
