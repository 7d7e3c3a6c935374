"""Arguments and report of scripts/load_server."""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import sys
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

from scripts.server_load.clients import OTHER, Results, load
from scripts.server_load.hostile import attack, run_attack
from scripts.server_load.process import Server, serving

AT_ONCE = 50
"""Attacks at the same time."""


def main() -> int:
    parser = argparse.ArgumentParser("scripts/load_server", description=__doc__)
    parser.add_argument("--model", type=Path, required=True, help="run or checkpoint")
    parser.add_argument("--input", type=Path, required=True, help="sentences to translate, one a line")
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--minutes", type=float, default=10.0, help="under load; 0 leaves it out (default: 10)")
    parser.add_argument("--hostile", type=int, default=10_000, help="hostile requests (default: 10,000)")
    parser.add_argument("--restarts", type=int, default=2, help="stops and kills under load, in turn (default: 2)")
    parser.add_argument("--seed", type=int, default=1, help="of the hostile requests")
    options = parser.parse_args()
    lines = [line for line in options.input.read_text(encoding="utf-8").splitlines() if line.strip()]
    sound = True
    if options.minutes:
        sound &= _load(options.model, lines, options.clients, 60 * options.minutes)
    if options.hostile:
        sound &= _attack(options.model, options.hostile, options.seed)
    if options.restarts:
        sound &= _restart(options.model, lines, options.restarts)
    return 0 if sound else 1


def _load(model: Path, lines: list[str], clients: int, seconds: float) -> bool:
    alone, alone_of_processor = _lines_per_second(model, lines)
    print(f"nmt-translate: {alone:.1f} lines/s, {alone_of_processor:.1f} a second of processor time", flush=True)
    with serving(model) as server:
        asyncio.run(load(server.port, lines, clients, min(seconds / 10, 30), Results()))  # warm
        before, busy = _memory(server), server.metric("process_cpu_seconds_total")
        results = Results()
        started = time.monotonic()
        asyncio.run(load(server.port, lines, clients, seconds, results))
        rate = results.answered / (time.monotonic() - started)
        after, busy = _memory(server), server.metric("process_cpu_seconds_total") - busy
    of_processor = results.answered / busy
    print(f"nmt-serve, {clients} clients, {seconds:.0f} s: {rate:.1f} lines/s, {of_processor:.1f} of processor time")
    print(f"  {rate / alone:.0%} and {of_processor / alone_of_processor:.0%} of nmt-translate")
    print(f"  p50 {results.percentile(0.5):.2f} s, p99 {results.percentile(0.99):.2f} s; {dict(results.outcomes)}")
    print(f"  memory {before / 2**20:.0f} MiB before, {after / 2**20:.0f} MiB after", flush=True)
    return set(results.outcomes) == {"200"}


def _memory(server: Server) -> float:
    return server.metric("process_resident_memory_bytes")


def _lines_per_second(model: Path, lines: list[str]) -> tuple[float, float]:
    """Of nmt-translate with one thread, its start left out: by the clock, and by the time of its processor.

    On a machine that is busy with other work only the second can be compared.
    """
    command = [sys.executable, "-m", "nmt.cli.translate", "--model", str(model), "--threads", "1"]

    def seconds(text: list[str]) -> tuple[float, float]:
        with TemporaryDirectory() as folder:
            file = Path(folder, "lines")
            file.write_text("".join(f"{line}\n" for line in text), encoding="utf-8")
            before, started = os.times(), time.monotonic()
            subprocess.run([*command, "--input", str(file)], check=True, stdout=subprocess.DEVNULL)
            after = os.times()
            busy = sum(after[2:4]) - sum(before[2:4])  # of processes that have ended
            return time.monotonic() - started, busy

    start, whole = seconds(lines[:1]), seconds(lines)
    return len(lines) / (whole[0] - start[0]), len(lines) / (whole[1] - start[1])


def _attack(model: Path, count: int, seed: int) -> bool:
    random, kinds, problems = Random(seed), Counter[str](), list[str]()
    with serving(model) as server:
        asyncio.run(_attacks(server, Random(seed + 1), min(count, 500), Counter(), []))  # warm
        before = _memory(server)
        asyncio.run(_attacks(server, random, count, kinds, problems))
        time.sleep(1)
        healthy = server.request("GET", "/health").status == 200
        after, files = _memory(server), server.metric("process_open_fds")
        waiting = server.metric("nmt_waiting_sentences", f'{{model="{model.resolve().name}"}}')
        failures = [line for line in server.log if "Traceback" in line or "Error" in line]
    print(f"{count:,} hostile requests: {len(problems)} answered wrongly; health: {'good' if healthy else 'bad'}")
    print(f"  memory {before / 2**20:.0f} MiB before, {after / 2**20:.0f} MiB after; {files:.0f} open files")
    for problem in [*problems, *failures][:20]:
        print(f"  {problem}")
    return healthy and not problems and not failures and not waiting


async def _attacks(server: Server, random: Random, count: int, kinds: Counter[str], problems: list[str]) -> None:
    limit = asyncio.Semaphore(AT_ONCE)
    secrets = [str(Path.cwd()).encode(), b"site-packages"]

    async def one() -> None:
        async with limit:
            drawn = attack(random)
            kinds[drawn.name] += 1
            if problem := await run_attack(server.port, drawn, secrets):
                problems.append(f"{drawn.name}: {problem}")

    await asyncio.gather(*(one() for _ in range(count)))


def _restart(model: Path, lines: list[str], restarts: int) -> bool:
    """Stops (SIGTERM) and kills (SIGKILL) the server in turn, while clients send requests."""
    results, port = Results(), 0

    async def clients_meanwhile() -> None:
        nonlocal port
        clients = None
        for number in range(restarts + 1):
            with ExitStack() as stack:
                # On another thread: starting takes seconds, and clients go on.
                server = await asyncio.to_thread(stack.enter_context, serving(model, port=port))
                port = server.port
                if clients is None:
                    clients = asyncio.ensure_future(load(port, lines, 50, 1e9, results))
                await asyncio.sleep(5)
                if number < restarts:
                    stop = server.process.kill if number % 2 else server.process.terminate
                    before = results.outcomes.copy()
                    stop()
                    await asyncio.to_thread(server.process.wait)
                    await asyncio.sleep(0.2)
                    lost = {name: results.outcomes[name] - before[name] for name in OTHER}
                    print(f"  {'SIGKILL' if number % 2 else 'SIGTERM'}: {lost}", flush=True)
        assert clients is not None
        clients.cancel()
        await asyncio.gather(clients, return_exceptions=True)

    print(f"{restarts} restarts under load")
    asyncio.run(clients_meanwhile())
    print(f"  {dict(results.outcomes)}", flush=True)
    return set(results.outcomes) <= {"200", "refused", "closed without an answer"}


if __name__ == "__main__":
    sys.exit(main())
