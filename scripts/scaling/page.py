"""Formats the measurements for docs/scaling.md, between its marks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from scripts.scaling import cost

BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"


def write(path: Path, measured: dict[str, Any]) -> None:
    """Writes the tables between the two marks; the rest of the page stays."""
    text = path.read_text(encoding="utf-8") if path.exists() else f"# Scaling\n\n{BEGIN}\n{END}\n"
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    path.write_text(before + "\n".join([BEGIN, "", *tables(measured), END]) + after, encoding="utf-8")


def tables(measured: dict[str, Any]) -> Iterator[str]:
    """Formats all measurements so far."""
    yield f"{measured['machine']}. {measured['remark']}".rstrip()
    yield ""
    if "data" in measured:
        yield from _section("The data pipeline by size of the corpus", _sizes(measured["data"]))
        yield from _section("Encoding", _encoding(measured["data"]))
        yield from _section("An epoch of batches from the finished cache", _batches(measured["data"]))
    if "ranks" in measured:
        yield from _section("Two processes", _ranks(measured["ranks"]))
        yield from _section("When gradients set off", _buckets(measured["buckets"]))
    if "data" in measured and "ranks" in measured:
        parts, assumed = cost.Measured.of(measured), cost.Assumptions()
        yield from _section("A billion pairs: preparation", cost.preparation(parts, assumed))
        yield from _section("A billion pairs: an epoch", cost.epoch(parts, assumed))
        yield from _section("A billion pairs: the exchange of gradients", cost.exchange(parts, assumed))


def _section(title: str, lines: Iterator[str]) -> Iterator[str]:
    yield f"### {title}"
    yield ""
    yield from lines
    yield ""


def _sizes(data: dict[str, Any]) -> Iterator[str]:
    yield (
        "Peak anonymous memory in MB of the process (and of the largest that it starts); one that has only imported "
        f"the modules has {data['resting']['main_mb']:.0f}."
    )
    yield ""
    yield (
        "| pairs | text | learning a tokenizer | encoding | an epoch of batches | opening the cache, first / second "
        "time | until the first update |"
    )
    yield "|---|---|---|---|---|---|---|"
    for row in data["rows"]:
        building = _last(row["building"])
        learning, reading, opening = row["learning"], row["reading"]["ahead"], row["opening"]
        yield (
            f"| {row['pairs']:,} | {row['text_bytes'] / 1e6:,.0f} MB | {learning['main_mb']:,.0f} MB, "
            f"{learning['seconds']:,.1f} s | {building['main_mb']:,.0f} ({building['worker_mb']:,.0f}) MB | "
            f"{reading['main_mb']:,.0f} MB | {opening[0]['open_seconds']:.2f} / {opening[1]['open_seconds']:.2f} s | "
            f"{opening[1]['first_update_seconds']:.2f} s |"
        )


def _encoding(data: dict[str, Any]) -> Iterator[str]:
    yield (
        "Wall-clock rates contain the fingerprint; processor time is µs a pair, of the process that reads and writes "
        "and of those that tokenize together."
    )
    yield ""
    yield (
        "| pairs | workers | pairs/s | pieces/s | fingerprint | reading and writing | tokenizing | cache, bytes a "
        "pair | duplicates |"
    )
    yield f"|{'---|' * 9}"
    for row in data["rows"]:
        pairs = row["pairs"]
        for workers, each in row["building"].items():
            serial = each["main_cpu"] - each["fingerprint_cpu"]
            per_pair = (each["fingerprint_cpu"], serial, each["workers_cpu"])
            fingerprint, serial, tokenizing = (f"{seconds / pairs * 1e6:.1f}" for seconds in per_pair)
            yield (
                f"| {pairs:,} | {workers} | {pairs / each['seconds']:,.0f} | {each['pieces'] / each['seconds']:,.0f} | "
                f"{fingerprint} | {serial} | {tokenizing if workers != '1' else 'in the same'} | "
                f"{each['bytes'] / pairs:.0f} | {each['duplicates'] / pairs:.1%} |"
            )


def _batches(data: dict[str, Any]) -> Iterator[str]:
    yield (
        "Batches of 4,096 padded tokens, in target tokens per second (batches per second): made in the thread that "
        "works ahead, without it, with a cache that the system had dropped from memory, and by two ranks at once."
    )
    yield ""
    yield "| pairs | windows | planning a window | ahead | without | cold | two ranks | memory of a rank |"
    yield f"|{'---|' * 8}"
    for row in data["rows"]:
        ahead, alone, cold = (row["reading"][name] for name in ("ahead", "alone", "cold"))
        both = sum(rank["tokens"] for rank in row["ranks"]) / max(rank["seconds"] for rank in row["ranks"])
        batches = sum(rank["batches"] for rank in row["ranks"]) / max(rank["seconds"] for rank in row["ranks"])
        rates = (
            f"{each['tokens_per_second']:,.0f} ({each['batches_per_second']:,.0f})" for each in (ahead, alone, cold)
        )
        yield (
            f"| {row['pairs']:,} | {ahead['windows']} | {ahead['plan_seconds']:.2f} s | {' | '.join(rates)} | "
            f"{both:,.0f} ({batches:,.0f}) | {max(rank['main_mb'] for rank in row['ranks']):,.0f} MB |"
        )


def _ranks(ranks: dict[str, Any]) -> Iterator[str]:
    def listed(numbers: list[float], form: str) -> str:
        return ", ".join(format(number, form) for number in numbers)

    yield (
        f"`{ranks['config']}` on sentences as long as Multi30k's, {ranks['updates']} updates, one thread a process, "
        f"gloo. Target tokens per second of one process: {listed(ranks['one'], ',.0f')}; of two, in turn with it: "
        f"{listed(ranks['two'], ',.0f')}. Ratios {listed(ranks['ratios'], '.2f')}, median **{ranks['ratio']:.2f}**. "
        f"Agreeing on the counts of an update takes them {ranks['agreeing']['seconds'] * 1e6:,.0f} µs."
    )


def _buckets(measured: dict[str, Any]) -> Iterator[str]:
    yield (
        f"The model of `multi30k-de-en.yaml`, {measured['parameters'] / 1e6:.1f} M parameters: when each bucket of "
        "gradients is complete and sets off, as a share of the backward pass."
    )
    yield ""
    sizes = " | ".join(f"{bucket['bytes'] / 2**20:.1f} MB" for bucket in measured["buckets"])
    yield f"| {sizes} |"
    yield f"|{'---|' * len(measured['buckets'])}"
    yield f"| {' | '.join(format(bucket['ready'], '.0%') for bucket in measured['buckets'])} |"


def _last(values: dict[str, Any]) -> Any:
    return list(values.values())[-1]
