"""Tries cases of one kind, makes failing ones smaller and saves them."""

from __future__ import annotations

import hashlib
import sys
import time
import warnings
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from unittest import SkipTest

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from hypothesis.errors import Flaky, HypothesisWarning

from scripts.fuzzing.case import Case, Failure, Workshop, save_failure

BLOCK = 10
"""Cases that hypothesis draws in one go. Of more, it would make most by repeating parts of those before."""
SHRINKING = 20.0
"""Seconds in which a failing case is made smaller."""


@dataclass
class Finding:
    """A failure, and the smallest case known for it."""

    case: Case
    failure: Failure
    folder: Path


class _Failed(AssertionError):
    """Tells hypothesis that a case failed."""


class Hunt:
    """One kind of cases: what was tried and what failed."""

    def __init__(self, kind: str, workshop: Workshop, failures: Path, shrinking: float = SHRINKING) -> None:
        self.kind = kind
        self.findings: dict[str, Finding] = {}
        self.occurrences: Counter[str] = Counter()
        self.tried = 0
        self._workshop = workshop
        self._failures = failures
        self._shrinking = shrinking
        self._seen: set[str] = set()

    def run(self, strategy: st.SearchStrategy[Case], *, cases: int | None, seconds: float, seed: int) -> None:
        """Try so many cases, or until the time is up."""
        end = time.monotonic() + seconds
        block = 0
        while (cases is None or self.tried < cases) and time.monotonic() < end:
            self._block(strategy, seed * 1_000_003 + block, cases, end)
            block += 1

    def _block(self, strategy: st.SearchStrategy[Case], number: int, cases: int | None, end: float) -> None:
        target: str | None = None
        shrunk_until = 0.0
        known: dict[str, Failure | None] = {}

        @seed(number)
        @settings(
            max_examples=BLOCK,
            database=None,
            deadline=None,
            phases=(Phase.generate, Phase.shrink),
            suppress_health_check=list(HealthCheck),
            report_multiple_bugs=False,
            print_blob=False,
        )
        @given(strategy)
        def attempt(case: Case) -> None:
            nonlocal target, shrunk_until
            # While a failure is made smaller, hypothesis asks for the same case again.
            name = _digest(case)
            if target is not None and name in known:
                failure = known[name]
            elif target is None and (time.monotonic() > end or self.tried == cases):
                # The one exception with which hypothesis draws no further case.
                raise SkipTest("enough")
            elif (target is not None and time.monotonic() > shrunk_until) or (target is None and name in self._seen):
                return
            else:
                failure = known[name] = self._workshop.attempt(case)
                self.tried += target is None
                self._seen.add(name)
            if failure is None:
                return
            if target is None:
                self.occurrences[failure.what] += 1
                if failure.what in self.findings:
                    return
                target, shrunk_until = failure.what, time.monotonic() + self._shrinking
            if failure.what == target:
                self._keep(case, failure)
                raise _Failed(failure.what)

        try:
            with warnings.catch_warnings():
                # Long texts make long descriptions of strategies.
                warnings.simplefilter("ignore", HypothesisWarning)
                attempt()
        except SkipTest:
            return
        except (_Failed, Flaky):
            assert target is not None
            finding = self.findings[target]
            save_failure(finding.folder, finding.case, finding.failure)
            print(
                f"{self.kind}: {target}\n  {finding.case.note[:300]}\n  {finding.folder}", file=sys.stderr, flush=True
            )

    def _keep(self, case: Case, failure: Failure) -> None:
        name = hashlib.sha256(failure.what.encode()).hexdigest()[:8]
        self.findings[failure.what] = Finding(case, failure, self._failures / f"{self.kind}-{name}")

    def report(self, seconds: float) -> str:
        """The figures, and a line for each failure."""
        tally = self._workshop.tally
        lines = [
            f"{self.kind}: {self.tried:,} cases in {seconds:.0f} s, {len(self.findings)} failures; "
            f"all kinds so far: {tally.accepted:,} commands succeeded, {tally.refused:,} refused, "
            f"slowest {tally.slowest:.1f} s"
        ]
        lines += [f"  {self.occurrences[what]:4} x {what}: {finding.folder}" for what, finding in self.findings.items()]
        return "\n".join(lines)


def _digest(case: Case) -> str:
    content = repr([(name, case.files[name]) for name in sorted(case.files)]) + repr(case.commands)
    return hashlib.sha256(content.encode("utf-8", "replace")).hexdigest()
