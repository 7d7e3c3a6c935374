"""The fuzzer: it sees what it has to see, and a short run of it finds nothing."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import strategies as st

from scripts.fuzzing import checkpoints
from scripts.fuzzing.__main__ import KINDS, strategy_of
from scripts.fuzzing.case import Case, Command, Failure, Tally, Workshop
from scripts.fuzzing.hunt import Hunt
from scripts.fuzzing.server import Limits
from scripts.fuzzing.streams import expects_lines, expects_n_best, expects_objects

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the fuzzer forks, and reads /proc")

PLANTED = {
    "answers": "print('one line')",
    "raises": "[][0]",
    "aborts": "os.abort()",
    "sleeps": "time.sleep(60)",
    "computes": "while True: pass",
    "grows": "held = [b'x' * (1 << 26) for _ in range(64)]",
    "refuses": "print('say more', file=sys.stderr); sys.exit(2)",
    "says_nothing": "sys.exit(2)",
    "ends_with_3": "sys.exit(3)",
    "writes_beside": "open('../beside', 'w').close()",
    "leaves_temporary_files": "tempfile.mkstemp()",
    "reads_a_letter": "text = sys.stdin.read(); assert 'x' not in text, text",
}


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workshop]:
    """A workshop in which modules of the name `planted_...` can be run as commands."""
    modules = tmp_path_factory.mktemp("modules")
    for name, body in PLANTED.items():
        text = f"import os, sys, tempfile, time\ndef main():\n    {body}\n"
        (modules / f"planted_{name}.py").write_text(text, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", f"{modules}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
        limits = Limits(seconds=1.0, wall_seconds=20.0, memory=1 << 29)
        with Workshop(tmp_path_factory.mktemp("workshop"), limits) as opened:
            yield opened


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Workshop, dict[str, dict[str, bytes]]]]:
    """A workshop with the usual limits, and the files of the runs that were trained in it."""
    with Workshop(tmp_path_factory.mktemp("real")) as opened:
        yield opened, checkpoints.trained(opened)


def _attempt(
    workshop: Workshop, name: str, check_output: Callable[[bytes], str | None] | None = None
) -> Failure | None:
    return workshop.attempt(Case({}, [Command(f"planted_{name}", [], check_output=check_output)]))


@pytest.mark.parametrize("name", ["answers", "refuses"])
def test_success_and_a_mistake_with_a_message_are_no_failures(workshop: Workshop, name: str) -> None:
    assert _attempt(workshop, name) is None


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("raises", "traceback: IndexError at an unknown place"),
        ("aborts", "crash: SIGABRT"),
        ("sleeps", "hang: nothing done for 1 s"),
        ("computes", "hang: more than 1 s of processor time"),
        ("grows", "memory: more than 0.5 GiB"),
        ("says_nothing", "exit code 2 without a message"),
        ("ends_with_3", "exit code 3"),
        ("writes_beside", "files beside the folder of the case: ['beside']"),
        ("leaves_temporary_files", "temporary files left behind: tmp*"),
    ],
)
def test_planted_faults_are_seen(workshop: Workshop, name: str, what: str) -> None:
    failure = _attempt(workshop, name)
    (workshop.folder / "beside").unlink(missing_ok=True)
    assert failure is not None
    assert failure.what == what


def test_a_wrong_number_of_lines_is_seen(workshop: Workshop) -> None:
    assert _attempt(workshop, "answers", expects_lines(1)) is None
    failure = _attempt(workshop, "answers", expects_lines(2))
    assert failure is not None
    assert failure.what == "wrong number of lines"


def test_lines_are_counted_at_line_feeds_alone() -> None:
    assert expects_lines(2)("a\u2028b\rc\nd".encode()) is None
    assert expects_lines(3)(b"\n\n\n") is None
    assert expects_objects(2)(b'{"line": 1}\n{"line": 2}\n') is None
    assert expects_objects(2)(b'{"line": 2}\n{"line": 1}\n') == "wrong numbers of lines"
    assert expects_n_best(2, 2)(b"0 ||| a\n0 ||| b\n1 ||| c\n") is None
    assert expects_n_best(2, 1)(b"0 ||| a\n0 ||| b\n1 ||| c\n") == "wrong number of lines"
    assert expects_n_best(2, 2)(b"0 ||| a\n2 ||| b\n") == "wrong numbers of lines"


def test_a_failing_case_is_made_smaller_and_saved(workshop: Workshop, tmp_path: Path) -> None:
    command = Command("planted_reads_a_letter", [], "stdin")
    texts = st.text(alphabet="axyz", max_size=5)
    hunt = Hunt("letters", workshop, tmp_path, shrinking=5.0)
    hunt.run(texts.map(lambda text: Case({"stdin": text.encode()}, [command], text)), cases=40, seconds=60, seed=1)
    assert list(hunt.findings) == ["traceback: AssertionError at an unknown place"]
    (folder,) = tmp_path.iterdir()
    assert (folder / "case" / "stdin").read_bytes() == b"x"
    report = (folder / "failure.txt").read_text(encoding="utf-8")
    assert "python -m planted_reads_a_letter < stdin" in report
    assert "AssertionError: x" in report
    assert hunt.tried == 40


def test_the_time_limit_ends_a_hunt(workshop: Workshop, tmp_path: Path) -> None:
    hunt = Hunt("letters", workshop, tmp_path)
    start = time.monotonic()
    case = Case({}, [Command("planted_answers", [])])
    hunt.run(st.text().map(lambda text: Case(case.files, case.commands, text)), cases=None, seconds=0.5, seed=1)
    assert time.monotonic() - start < 10


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_short_run_finds_nothing(
    kind: str, real: tuple[Workshop, dict[str, dict[str, bytes]]], tmp_path: Path
) -> None:
    workshop, runs = real
    workshop.tally = Tally()
    cases = 120 if kind == "configs" else 24
    hunt = Hunt(kind, workshop, tmp_path)
    hunt.run(strategy_of(kind, runs), cases=cases, seconds=600, seed=1)
    assert hunt.tried == cases
    assert not hunt.findings, hunt.report(0)
    # A run in which nothing succeeds, or nothing is refused, would show little.
    assert workshop.tally.accepted > cases // 20
    assert workshop.tally.refused > cases // 20
