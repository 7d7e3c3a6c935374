"""Estimates the cost of a large corpus on many GPUs from measurements and assumptions; shows the arithmetic."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from nmt.data.batching.update_stream import WINDOW_ROWS

HOUR = 3600.0
GPUS_OF_A_NODE = 8


@dataclass(frozen=True)
class Assumptions:
    """Assumptions. Bandwidths are of one GPU, in one direction, as an all-reduce reaches them."""

    pairs: float = 1e9
    pieces: float = 29.0
    """Pieces of a sentence, either side, without the end symbol: half of the 58 of a pair of web text."""
    rates: Sequence[float] = (50_000.0, 150_000.0, 400_000.0)
    """Target tokens per second and GPU; no GPU was measured."""
    gpus: Sequence[int] = (8, 64)
    batch_tokens: float = 8192.0
    fill: float = 0.93
    """Target tokens of a batch as a share of `batch_tokens`."""
    parameters: Sequence[tuple[str, float]] = (("a small network", 8.1e6), ("GNMT's size", 160e6))
    inside: float = 300e9
    """Bytes per second between the GPUs of a node (NVLink 4)."""
    between: Sequence[tuple[str, float]] = (("400 Gbit/s a GPU", 40e9), ("100 Gbit/s a node", 100e9 / 8 * 0.8 / 8))
    """Bytes per second and GPU between nodes."""
    backward: float = 0.6
    """Share of an update that is its backward pass."""
    cores: Sequence[int] = (2, 16, 64)


@dataclass(frozen=True)
class Measured:
    """The parts of the cost that were measured, per pair of this many pieces; seconds are of one core."""

    pieces: float
    """Both sides together, without end symbols."""
    fingerprint: float
    learning: float
    """Seconds that a pair adds to learning a tokenizer; beyond a million sentences the rest is constant."""
    serial: float
    """Seconds of reading and writing, in one process."""
    tokenizing: float
    """Seconds of tokenizing, in the workers."""
    plan: float
    """Per row of a window."""
    batches: float
    """Seconds a target token, on one core."""
    bytes_beside_ids: float
    """Bytes in the cache, beside 2 bytes a piece."""
    memory_mb: float
    """Anonymous memory of an epoch of batches."""
    ready: Sequence[tuple[float, float]]
    """Share of the gradients in each bucket, and the point in the backward pass at which its exchange starts."""

    @classmethod
    def of(cls, measured: dict[str, Any]) -> Measured:
        """Returns the measurements of the largest corpus of the report."""
        row = measured["data"]["rows"][-1]
        pairs = row["pairs"]
        building = list(row["building"].values())[-1]
        reading = row["reading"]["alone"]
        buckets = measured["buckets"]["buckets"]
        everything = sum(bucket["bytes"] for bucket in buckets)
        return cls(
            pieces=building["pieces"] / pairs,
            fingerprint=building["fingerprint_cpu"] / pairs,
            learning=_slope(measured["data"]["rows"]),
            serial=(building["main_cpu"] - building["fingerprint_cpu"]) / pairs,
            tokenizing=building["workers_cpu"] / pairs,
            plan=reading["plan_seconds"] / reading["window_rows"],
            batches=reading["seconds"] / reading["tokens"],
            bytes_beside_ids=building["bytes"] / pairs - 2 * building["pieces"] / pairs,
            memory_mb=row["reading"]["ahead"]["main_mb"],
            ready=[(bucket["bytes"] / everything, bucket["ready"]) for bucket in buckets],
        )


def preparation(measured: Measured, assumed: Assumptions) -> Iterator[str]:
    """Yields the cost of preparation: once, on one machine."""
    longer = 2 * assumed.pieces / measured.pieces
    pairs = assumed.pairs
    yield (
        f"Costs of a pair are taken to grow with its pieces, {2 * assumed.pieces:.0f} instead of the "
        f"{measured.pieces:.1f} measured: a factor of {longer:.2f}."
    )
    yield ""
    yield "| once | arithmetic | hours |"
    yield "|---|---|---|"
    for name, seconds in (
        ("learning the tokenizer (not with `tokenizer.file`)", measured.learning),
        ("fingerprint of the text", measured.fingerprint),
        ("encoding: the process that reads and writes", measured.serial),
    ):
        yield f"| {name} | {_product(pairs, seconds, longer)} | {pairs * seconds * longer / HOUR:.1f} |"
    for cores in assumed.cores:
        hours = pairs * measured.tokenizing * longer / cores / HOUR
        arithmetic = f"{_product(pairs, measured.tokenizing, longer)} / {cores} cores"
        yield f"| encoding: tokenizing on {cores} cores, beside it | {arithmetic} | {hours:.1f} |"
    yield ""
    ids, beside = 2 * 2 * assumed.pieces, measured.bytes_beside_ids
    yield (
        f"Disk: {ids:.0f} bytes of ids and {beside:.0f} of offsets and places a pair, "
        f"{pairs:.0e} x {ids + beside:.0f} = {pairs * (ids + beside) / 1e9:,.0f} GB, and as much again and 17 bytes a "
        "pair of scratch while it is built."
    )


def epoch(measured: Measured, assumed: Assumptions) -> Iterator[str]:
    """Yields the cost of an epoch by number of GPUs and rate, and the share of the pipeline."""
    tokens = assumed.pairs * (assumed.pieces + 1)
    windows = math.ceil(assumed.pairs / WINDOW_ROWS)
    yield (
        f"An epoch is {assumed.pairs:.0e} x {assumed.pieces + 1:.0f} = {tokens:.1e} target tokens. A rank plans "
        f"{windows} windows in it, {measured.plan * WINDOW_ROWS:.1f} s each ({measured.plan * assumed.pairs:.0f} s), "
        "ahead of the training, in a thread; its memory for data is that of the table above. One core makes batches of "
        f"{1 / measured.batches:,.0f} target tokens per second."
    )
    yield ""
    yield (
        "| GPUs | tokens/s a GPU (assumed) | hours an epoch | GPU-hours | planning, share of an epoch | "
        "a rank needs, share of a core |"
    )
    yield "|---|---|---|---|---|---|"
    for gpus in assumed.gpus:
        for rate in assumed.rates:
            seconds = tokens / (gpus * rate)
            yield (
                f"| {gpus} | {rate:,.0f} | {seconds / HOUR:.1f} | {gpus * seconds / HOUR:,.0f} | "
                f"{measured.plan * assumed.pairs / seconds:.1%} | {rate * measured.batches:.1%} |"
            )


def exchange(measured: Measured, assumed: Assumptions) -> Iterator[str]:
    """Yields the time of the all-reduce of an update beside its computation."""
    tokens = assumed.batch_tokens * assumed.fill
    yield (
        f"An update of one batch is {assumed.batch_tokens:,.0f} x {assumed.fill} = {tokens:,.0f} target tokens a GPU. "
        "Each GPU sends and receives 4 bytes x parameters x 2 (n - 1) / n (2 bytes where gradients are exchanged in "
        "bf16, which nmt does not do yet). What is left of that when the backward pass is over is waited for: buckets "
        f"set off as measured above, the backward pass is {assumed.backward:.0%} of an update."
    )
    yield ""
    yield (
        "| model | GPUs | link | GB sent | ms | at tokens/s a GPU | update, ms | waited for, ms | efficiency | "
        "with `accumulation: 4` |"
    )
    yield f"|{'---|' * 10}"
    for name, parameters in assumed.parameters:
        for gpus in assumed.gpus:
            links = assumed.between if gpus > GPUS_OF_A_NODE else [("inside a node", assumed.inside)]
            for link, bandwidth in links:
                sent = 4 * parameters * 2 * (gpus - 1) / gpus
                seconds = sent / bandwidth
                for rate in assumed.rates:
                    update = tokens / rate
                    waited = exposed(measured.ready, seconds, assumed.backward * update)
                    yield (
                        f"| {name}, {parameters / 1e6:.0f} M | {gpus} | {link} | {sent / 1e9:.3f} | "
                        f"{seconds * 1e3:.1f} | {rate:,.0f} | {update * 1e3:.0f} | {waited * 1e3:.1f} | "
                        f"{update / (update + waited):.0%} | {4 * update / (4 * update + waited):.0%} |"
                    )


def exposed(ready: Sequence[tuple[float, float]], seconds: float, backward: float) -> float:
    """Returns the seconds after the backward pass until all buckets are exchanged, one after the other.

    Args:
        ready: share of the bytes and moment in the backward pass, as a share of it, of each bucket.
        seconds: what the exchange of all takes.
        backward: length of the backward pass.
    """
    free = 0.0
    for share, moment in sorted(ready, key=lambda bucket: bucket[1]):
        free = max(free, moment * backward) + share * seconds
    return max(free - backward, 0.0)


def _product(pairs: float, seconds: float, longer: float) -> str:
    return f"{pairs:.0e} x {seconds * 1e6:.2f} µs x {longer:.2f}"


def _slope(rows: Sequence[dict[str, Any]]) -> float:
    none: dict[str, Any] = {"pairs": 0, "learning": {"cpu": 0.0}}
    before, row = [none, *rows][-2:]
    return float((row["learning"]["cpu"] - before["learning"]["cpu"]) / (row["pairs"] - before["pairs"]))
