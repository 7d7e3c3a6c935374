"""Work that processes share out is that of one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from nmt.config.schema import Search
from nmt.errors import DataError, NmtError
from nmt.experiment.loading import System
from nmt.experiment.translation import Wanted, translate_lines
from nmt.runtime import share_out, usable_workers
from tests.conftest import SOURCES

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are forked on Linux alone")


def test_parts_are_done_by_other_processes_and_all_come_back() -> None:
    table = {number: number**2 for number in range(20)}
    found = dict(share_out(lambda part: (table[part], os.getpid()), list(table), 3))
    assert {part: square for part, (square, _) in found.items()} == table
    processes = {process for _, process in found.values()}
    assert os.getpid() not in processes
    assert len(processes) <= 3


def test_one_worker_or_one_part_stays_in_this_process() -> None:
    assert list(share_out(lambda part: os.getpid(), [1, 2], 1)) == [(1, os.getpid()), (2, os.getpid())]
    assert list(share_out(lambda part: os.getpid(), [1], 4)) == [(1, os.getpid())]
    assert list(share_out(lambda part: part, [], 4)) == []


def test_workers_have_one_thread_each() -> None:
    assert {threads for _, threads in share_out(lambda _: torch.get_num_threads(), [1, 2, 3], 2)} == {1}
    assert usable_workers(torch.device("cpu")) == torch.get_num_threads()
    assert usable_workers(torch.device("meta")) == 1


def fail(part: int) -> int:
    raise DataError(f"part {part} is bad")


def test_what_a_part_raises_is_raised_here() -> None:
    with pytest.raises(DataError, match="part 7 is bad"):
        list(share_out(fail, [7, 7], 2))


def test_a_process_that_is_killed_is_one_clear_line() -> None:
    with pytest.raises(NmtError, match="one of 2 processes was killed"):
        list(share_out(lambda _: os.kill(os.getpid(), signal.SIGKILL), [1, 2, 3], 2))


@pytest.mark.parametrize("kind", ["beam", "sampling"])
def test_a_translation_does_not_depend_on_the_number_of_processes(system: System, kind: str) -> None:
    """Every line a batch of its own, by one process and by three: pieces, scores, attention."""
    alone = replace(system, workers=1)
    search = Search(kind=kind, beam_size=3, batch_tokens=1)
    lines = [*SOURCES, "", *SOURCES]
    done: list[int] = []
    wanted = Wanted(n_best=2, attention=True, seed=3)
    expected = translate_lines(alone, lines, search, wanted)
    found = translate_lines(replace(alone, workers=3), lines, search, wanted, advance=done.append)
    assert found == expected
    for one, other in zip(found, expected, strict=True):
        for left, right in zip(one, other, strict=True):
            assert left.attention is not None
            assert right.attention is not None
            assert (left.attention == right.attention).all()
    assert sum(done) == len(lines)


def test_an_interrupt_ends_all_processes_at_once() -> None:
    """As from a terminal, which sends it to the whole group; nothing is written by those that were at work."""
    code = (
        "import os, time\n"
        "from nmt.runtime import share_out\n"
        "def work(part):\n"
        # One write: two processes share the pipe.
        "    os.write(1, b'%d\\n' % part)\n"
        "    time.sleep(600)\n"
        "try:\n"
        "    list(share_out(work, [1, 2, 3], 2))\n"
        "except KeyboardInterrupt:\n"
        "    print('interrupted', flush=True)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout is not None
    assert {process.stdout.readline(), process.stdout.readline()} == {"1\n", "2\n"}
    os.killpg(process.pid, signal.SIGINT)
    # The pipes are closed when the last process that has them is gone.
    written, errors = process.communicate(timeout=60)
    assert (written, errors, process.returncode) == ("interrupted\n", "", 0)
