"""Arguments and report of scripts/load_server."""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

from scripts.server_load.clients import OTHER, Results, load
from scripts.server_load.hostile import attack, run_attack
from scripts.server_load.process import Server, serving

AT_ONCE = 50
"""Attacks at the same time."""
PARTS = 10
"""Of the attacks, after each of which memory is measured. It reaches its level in the first, and stays there."""
SAMPLES = 60
"""Of the memory under load."""
GROWTH = 1.05
"""Factor of memory above which it counts as a leak."""
FEWEST_LINES = 5000
"""That nmt-translate translates."""


def main() -> int:
    parser = argparse.ArgumentParser("scripts/load_server", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="load|hostile|restart")

    def add(name: str, run: Callable[[argparse.Namespace], bool], text: str) -> Callable[..., argparse.Action]:
        command = commands.add_parser(name, help=text, description=text)
        command.set_defaults(run=run)
        command.add_argument("--model", type=Path, required=True, help="run or checkpoint")
        return command.add_argument

    option = add("load", _load, "throughput beside nmt-translate, response times and memory under load")
    option("--input", type=_lines, required=True, metavar="FILE", help="sentences to translate, one a line")
    option("--clients", type=int, default=200, help="at once (default: 200)")
    option("--sentences", type=int, default=1, help="of a request (default: 1)")
    option("--minutes", type=float, default=10.0, help="under load (default: 10)")
    option = add("hostile", _attack, "requests that no client of good will sends")
    option("--requests", type=int, default=10_000, help="hostile requests (default: 10,000)")
    option("--seed", type=int, default=1, help="of the requests (default: 1)")
    option = add("restart", _restart, "stops (SIGTERM) and kills (SIGKILL) under load, in turn")
    option("--input", type=_lines, required=True, metavar="FILE", help="sentences to translate, one a line")
    option("--clients", type=int, default=200, help="at once (default: 200)")
    option("--restarts", type=int, default=4, help="stops and kills (default: 4)")
    options = parser.parse_args()
    sound = options.run(options)
    print("PASSED" if sound else "FAILED")
    return 0 if sound else 1


def _lines(path: str) -> list[str]:
    return [line for line in Path(path).read_text(encoding="utf-8").splitlines() if line.strip()]


def _load(options: argparse.Namespace) -> bool:
    lines, sentences, seconds = options.input, options.sentences, 60 * options.minutes
    alone, alone_of_processor = _lines_per_second(options.model, lines)
    print(f"nmt-translate: {alone:.1f} lines/s, {alone_of_processor:.1f} a second of processor time", flush=True)
    results, memory = Results(), list[float]()

    async def measured_load() -> None:
        clients = asyncio.ensure_future(load(server.port, lines, options.clients, seconds, results, sentences))
        while not (await asyncio.wait({clients}, timeout=seconds / SAMPLES))[0]:
            memory.append(await asyncio.to_thread(_memory, server))
        clients.result()

    with serving(options.model) as server:
        warm = load(server.port, lines, options.clients, max(seconds / 10, 20), Results(), sentences)
        asyncio.run(warm)
        labels = f'{{model="{options.model.resolve().name}"}}'
        names = ("process_cpu_seconds_total", f"nmt_batch_sentences_sum{labels}", f"nmt_batch_sentences_count{labels}")
        before, started = [server.metric(name) for name in names], time.monotonic()
        memory.append(_memory(server))
        asyncio.run(measured_load())
        took = time.monotonic() - started
        busy, batched, batches = (server.metric(name) - each for name, each in zip(names, before, strict=True))
        memory.append(_memory(server))
    answered = sentences * results.answered
    rate, of_processor = answered / took, answered / busy
    print(
        f"nmt-serve: {options.clients} clients, {sentences} sentences a request, {took:.0f} s: {rate:.1f} lines/s, "
        f"{of_processor:.1f} a second of processor time; {batched / batches:.0f} sentences a batch"
    )
    print(
        f"  {of_processor / alone_of_processor:.0%} of nmt-translate by processor time, {rate / alone:.0%} by the clock"
    )
    print(f"  p50 {results.percentile(0.5):.2f} s, p99 {results.percentile(0.99):.2f} s")
    print(f"  outcomes: {dict(results.outcomes)}")
    begin, end, least, most = (each / 2**20 for each in (memory[0], memory[-1], min(memory), max(memory)))
    print(f"  memory: {begin:.0f} MiB at the beginning, {end:.0f} at the end; {least:.0f} to {most:.0f} between")
    return set(results.outcomes) == {"200"} and end < GROWTH * begin


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

    # So many that the start, which varies, is a small part.
    text = lines * -(-FEWEST_LINES // len(lines))
    start, whole = seconds(lines[:1]), seconds(text)
    return len(text) / (whole[0] - start[0]), len(text) / (whole[1] - start[1])


def _attack(options: argparse.Namespace) -> bool:
    kinds, problems = Counter[str](), list[str]()
    with serving(options.model) as server:
        asyncio.run(_attacks(server, Random(options.seed + 1), min(options.requests, 500), Counter(), []))  # warm
        memory, files_before = [_memory(server)], server.metric("process_open_fds")
        random = Random(options.seed)
        for part in range(PARTS):
            count = (part + 1) * options.requests // PARTS - part * options.requests // PARTS
            asyncio.run(_attacks(server, random, count, kinds, problems))
            memory.append(_memory(server))
        time.sleep(1)
        healthy = server.request("GET", "/health").status == 200
        files = server.metric("process_open_fds")
        waiting = server.metric("nmt_waiting_sentences", f'{{model="{options.model.resolve().name}"}}')
        failures = [line for line in server.log if "Traceback" in line or "Error" in line]
    print(f"{options.requests:,} hostile requests: {dict(kinds)}")
    print(
        f"  {len(problems)} answered wrongly, {len(failures)} errors in the log; health: {'good' if healthy else 'bad'}"
    )
    tenths = ", ".join(f"{each / 2**20:.1f}" for each in memory[1:])
    print(f"  memory: {memory[0] / 2**20:.1f} MiB before; after each tenth {tenths}")
    print(f"  open files: {files_before:.0f} before, {files:.0f} after; {waiting:.0f} sentences wait")
    for problem in [*problems, *failures][:20]:
        print(f"  {problem}")
    leaks = memory[-1] > GROWTH * memory[1] or files > files_before or waiting
    return healthy and not problems and not failures and not leaks


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


def _restart(options: argparse.Namespace) -> bool:
    results, port, sound = Results(), 0, True

    async def clients_meanwhile() -> None:
        nonlocal port, sound
        clients = None
        for number in range(options.restarts + 1):
            with ExitStack() as stack:
                # On another thread: starting takes seconds, and clients go on.
                server = await asyncio.to_thread(stack.enter_context, serving(options.model, port=port))
                port = server.port
                if clients is None:
                    clients = asyncio.ensure_future(load(port, options.input, options.clients, 1e9, results))
                answered = results.answered
                while results.answered < answered + 2 * options.clients:
                    await asyncio.sleep(0.1)
                if number < options.restarts:
                    before, kills = results.outcomes.copy(), number % 2 == 1
                    stop = server.process.kill if kills else server.process.terminate
                    stop()
                    await asyncio.to_thread(server.process.wait)
                    await asyncio.sleep(0.2)
                    outcomes = {name: results.outcomes[name] - before[name] for name in ("200", *OTHER)}
                    print(f"  {'SIGKILL' if kills else 'SIGTERM'}: {outcomes}", flush=True)
                    # A kill leaves no time to answer the request that each client has in progress.
                    sound &= outcomes["closed without an answer"] <= kills * options.clients
        assert clients is not None
        clients.cancel()
        await asyncio.gather(clients, return_exceptions=True)

    print(f"{options.restarts} restarts under load of {options.clients} clients")
    asyncio.run(clients_meanwhile())
    print(f"  all together: {dict(results.outcomes)}", flush=True)
    return sound and set(results.outcomes) <= {"200", "refused", "closed without an answer"}


if __name__ == "__main__":
    sys.exit(main())
