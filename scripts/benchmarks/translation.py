"""Measures translation speed on sentences as long as those of Multi30k, relative to the bound of the products.

The network is fresh, so that no training is needed, and every hypothesis is made as long as its source (13.6 pieces on
average): what counts is the work. Variants take turns. The bound is the time that the products of translating (counted,
not estimated) take at the rate of a large float32 product measured in the same run, all threads together. A speed is
printed only where processes find what one finds, and shorter formats give the logits of float32 but for their rounding.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from nmt.config import schema
from nmt.kernels.select import choose_kernels
from nmt.model.translator import Translator, Vocabulary
from nmt.runtime import format_table, set_up
from nmt.runtime.worker_pool import WorkerPool
from nmt.search import Hypothesis, translate_batch
from scripts.benchmarks.network import FIRST_PIECE, flop_counter, model_options, product_rate, unsupported_reasons

Precision = Literal["fp32", "bf16", "int8"]
AGREEMENT: dict[str, float] = {"fp32": 1e-5, "bf16": 5e-2, "int8": 5e-2}
"""Largest allowed difference of the logits, relative to their norm."""
FREQUENT = 100
"""Pieces that are on every shortlist."""
ZIPF = 1.1
"""Exponent of the law that candidates are drawn by."""


@dataclass(frozen=True)
class Special:
    """Ids of the special pieces."""

    unk: int = 0
    pad: int = 1
    bos: int = 2
    eos: int = 3


@dataclass(frozen=True)
class Variant:
    """A measured variant."""

    precision: Precision
    processes: int
    batch: int
    beam: int
    shortlist: int = 0
    """Candidates of each source piece; 0 uses the whole vocabulary."""


@dataclass(frozen=True)
class Result:
    """One row of the table."""

    precision: str
    processes: int
    """1: one process whose products have all threads; more: processes of one thread each."""
    batch: int
    beam: int
    shortlist: int
    sentences_per_second: float
    """Median of the rounds."""
    slowest: float
    fastest: float
    milliseconds: float
    """Latency of a batch, the mean over batches of the rounds' medians."""
    share_of_bound: float
    """Share of the bound: the products with the whole vocabulary, at the rate of a large float32 product."""


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measures every precision, batch, beam and shortlist, in one process and, on a CPU, in one for each core."""
    runtime = set_up(schema.RuntimeConfig(device=options.device, precision="fp32", threads=options.threads))
    workers = torch.get_num_threads() if runtime.device.type == "cpu" else 1
    variants = [
        Variant(precision, processes, batch, beam, shortlist)
        for precision in precisions(options.precision, runtime.device)
        for beam in options.beam
        for batch in options.batch
        for shortlist in options.shortlist
        for processes in sorted({1, workers})
    ]
    model = model_options(options.attention, quick=options.quick)
    sources = synthetic_sources(options.sentences, options.vocabulary)
    results, rate = measure(model, options.vocabulary, variants, sources, options.rounds, runtime.device)
    return {
        "attention": options.attention,
        "vocabulary": options.vocabulary,
        "sentences": len(sources),
        "pieces_a_sentence": statistics.mean(map(len, sources)),
        "shortlists": {
            candidates: shortlist_sizes(sources, options.vocabulary, candidates, max(options.batch))
            for candidates in options.shortlist
            if candidates
        },
        "products_gflops": rate / 1e9,
        "threads": torch.get_num_threads(),
        "device": runtime.reason,
        "torch": torch.__version__,
        "results": [asdict(result) for result in results],
    }


def precisions(asked: Sequence[Precision], device: torch.device) -> list[Precision]:
    """Returns the precisions of the device: int8 exists on a CPU only."""
    possible = [precision for precision in asked if precision != "int8" or device.type == "cpu"]
    if not possible:
        sys.exit(f"scripts/benchmark: int8 is for a CPU; choose fp32 or bf16 on {device.type}")
    return possible


def synthetic_sources(count: int, vocabulary: int) -> list[list[int]]:
    """Returns random sentences with the lengths of Multi30k, the longest first."""
    rng = np.random.default_rng(1)
    lengths = np.sort(np.rint(rng.lognormal(np.log(13.2), 0.30, count)).clip(3, 60).astype(int))[::-1]
    return [rng.integers(FIRST_PIECE, vocabulary, length).tolist() for length in lengths]


def synthetic_shortlists(sources: Sequence[Sequence[int]], vocabulary: int, candidates: int) -> list[list[int]]:
    """Returns the frequent pieces, and the candidates of each source piece, drawn by Zipf's law. As with the lexicon
    of Multi30k 20 candidates are 190 pieces a sentence, and 64 sentences have a third of the vocabulary."""
    ranks = np.arange(1, vocabulary - FIRST_PIECE + 1) ** -ZIPF
    drawn = np.random.default_rng(2).choice(vocabulary - FIRST_PIECE, (vocabulary, candidates), p=ranks / ranks.sum())
    frequent = range(FIRST_PIECE, FIRST_PIECE + FREQUENT)
    return [sorted({*frequent, *(drawn[list(source)].ravel() + FIRST_PIECE).tolist()}) for source in sources]


def shortlist_sizes(
    sources: Sequence[Sequence[int]], vocabulary: int, candidates: int, batch: int
) -> tuple[float, float]:
    """Returns the mean number of pieces on the shortlist of a sentence, and of a batch."""
    lists = synthetic_shortlists(sources, vocabulary, candidates)
    together = [len(set().union(*lists[start : start + batch])) for start in range(0, len(lists), batch)]
    return statistics.mean(map(len, lists)), statistics.mean(together)


def measure(
    model: schema.ModelConfig,
    vocabulary: int,
    variants: Sequence[Variant],
    sources: Sequence[Sequence[int]],
    rounds: int,
    device: torch.device,
) -> tuple[list[Result], float]:
    """Measures all variants in turn, `rounds` times, and the rate of products between them."""
    systems = {
        precision: network(model, vocabulary, precision, device) for precision in {v.precision for v in variants}
    }
    check(systems, network(model, vocabulary, "fp32", device, packed=False), sources, device)
    works = {variant: Work(systems[variant.precision], variant, sources, device, vocabulary) for variant in variants}
    _start(works)
    for variant, work in works.items():
        if variant.processes > 1 and work.translations() != Work(
            systems[variant.precision], replace(variant, processes=1), sources, device, vocabulary
        ).translations(threads=1):
            sys.exit(f"{variant}: several processes find other translations than one")
        if variant.shortlist and any(
            not set(ids) <= {Special.unk, *own} for ids, own in zip(work.translations(), work.lists, strict=False)
        ):
            sys.exit(f"{variant}: a translation has pieces that are not on its list")
    flops = {
        (v.batch, v.beam): works[v].flops()
        for v in variants
        if v.precision == "fp32" and v.processes == 1 and not v.shortlist
    }
    seconds: dict[Variant, list[float]] = {variant: [] for variant in variants}
    rates = []
    for round_number in range(rounds + 1):
        rates.append(product_rate(torch.float32, device).best)
        for variant, work in works.items():
            start = time.perf_counter()
            work.run()
            if round_number:  # The first round warms up.
                seconds[variant].append(time.perf_counter() - start)
    rate = statistics.median(rates[1:])
    results = []
    for variant in variants:
        taken = statistics.median(seconds[variant])
        batches = len(works[variant].batches)
        counted = flops.get((variant.batch, variant.beam), float("nan"))
        results.append(
            Result(
                **asdict(variant),
                sentences_per_second=len(sources) / taken,
                slowest=len(sources) / max(seconds[variant]),
                fastest=len(sources) / min(seconds[variant]),
                milliseconds=1000 * taken * min(variant.processes, batches) / batches,
                share_of_bound=counted / rate / taken,
            )
        )
    return results, rate


def network(
    model: schema.ModelConfig, vocabulary: int, precision: Precision, device: torch.device, *, packed: bool = True
) -> Translator:
    """Returns a translator with the same fresh weights for all variants, prepacked for translation."""
    torch.manual_seed(1)
    weights = precision if packed and device.type == "cpu" else None
    kernels = choose_kernels("auto", device, unsupported_reasons(model), weights)
    translator = Translator(model, Vocabulary(vocabulary, vocabulary, bos=Special.bos), kernels).to(device).eval()
    kernels.prepack(translator)
    return translator


@torch.inference_mode()
def check(
    systems: dict[Precision, Translator], expected: Translator, sources: Sequence[Sequence[int]], device: torch.device
) -> None:
    """Compares the logits of the first step with those of float32, because a wrong result has no speed."""
    source_BS, lengths_B = padded(sources[:32], device)
    bos_B1 = torch.full((len(source_BS), 1), Special.bos, device=device)

    def logits(translator: Translator, precision: str) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            encoded = translator.encode(source_BS, lengths_B)
            return translator.step(translator.start(encoded), bos_B1)[1].float()

    wanted = logits(expected, "fp32")
    for precision, translator in systems.items():
        difference = float((logits(translator, precision) - wanted).norm() / wanted.norm())
        if not difference <= AGREEMENT[precision]:
            sys.exit(f"{precision}: the logits differ by {difference:.1e} of their norm")


class Work:
    """Translates all sources by one variant."""

    def __init__(
        self,
        translator: Translator,
        variant: Variant,
        sources: Sequence[Sequence[int]],
        device: torch.device,
        vocabulary: int,
    ) -> None:
        self.translator = translator
        self.variant = variant
        self.pool: WorkerPool | None = None
        """Worker processes of the variant."""
        self.device = device
        self.lists = synthetic_shortlists(sources, vocabulary, variant.shortlist) if variant.shortlist else []
        self.batches = [
            slice(start, min(start + variant.batch, len(sources))) for start in range(0, len(sources), variant.batch)
        ]
        self.sources = sources
        self.search = schema.SearchConfig(
            kind="beam", beam_size=variant.beam, min_length_ratio=1.0, max_length_ratio=1.0, max_length_offset=0
        )

    def batch(self, rows: slice) -> list[list[Hypothesis]]:
        source_BS, lengths_B = padded(self.sources[rows], self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.variant.precision == "bf16"):
            return translate_batch(
                [self.translator],
                source_BS,
                lengths_B,
                self.search,
                special=Special(),
                shortlists=self.lists[rows] if self.lists else None,
            )

    def run(self) -> list[list[list[Hypothesis]]]:
        """Yields the hypotheses of each batch."""
        if self.variant.processes == 1:
            return [self.batch(rows) for rows in self.batches]
        assert self.pool is not None
        assert self.pool.workers is not None
        parts = [partial(_batch, self.variant, rows) for rows in self.batches]
        found = dict(self.pool.workers.as_finished(parts))
        return [found[number] for number in range(len(self.batches))]

    def translations(self, threads: int | None = None) -> list[tuple[int, ...]]:
        """Returns the best hypothesis of each sentence of the first batches, with the threads of one process."""
        before = torch.get_num_threads()
        whole, self.batches = self.batches, self.batches[:4]
        torch.set_num_threads(threads or before)
        found = [hypotheses[0].ids for batch in self.run() for hypotheses in batch]
        torch.set_num_threads(before)
        self.batches = whole
        return found

    def flops(self) -> float:
        """Counts the floating-point operations of the products of all batches."""
        with flop_counter() as counter:
            for rows in self.batches:
                self.batch(rows)
        return float(counter.get_total_flops())


def _batch(variant: Variant, rows: slice, works: dict[Variant, Work]) -> list[list[Hypothesis]]:
    """Translates a batch in a worker."""
    return works[variant].batch(rows)


def _start(works: dict[Variant, Work]) -> None:
    """Starts the workers of all variants of several processes, before anything is timed."""
    processes = max((variant.processes for variant in works), default=1)
    if processes == 1:
        return
    pool = WorkerPool(processes)
    pool.start(works, processes, 1)
    assert pool.workers is not None
    while not pool.workers.ready:
        time.sleep(0.1)
    for variant, work in works.items():
        work.pool = pool if variant.processes > 1 else None


def padded(sources: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    lengths_B = torch.tensor([len(source) + 1 for source in sources])
    source_BS = torch.full((len(sources), int(lengths_B.max())), Special.eos)
    for row, source in enumerate(sources):
        source_BS[row, : len(source)] = torch.tensor(source)
    return source_BS.to(device), lengths_B


def lines(report: dict[str, Any]) -> Iterator[str]:
    """Formats the report as a table."""
    yield (
        f"{report['attention']}, vocabulary {report['vocabulary']:,}, {report['pieces_a_sentence']:.1f} pieces each; "
        f"{report['device']}; {report['threads']} threads, {report['products_gflops']:.0f} GFLOP/s in float32, "
        f"torch {report['torch']}"
    )
    for candidates, (own, together) in report["shortlists"].items():
        print(f"shortlist {candidates}: {own:.0f} pieces a sentence, {together:.0f} a batch")
    rows = [
        (
            result["precision"],
            str(result["processes"]),
            str(result["batch"]),
            str(result["beam"]),
            str(result["shortlist"] or "all"),
            f"{result['sentences_per_second']:.1f}",
            f"{result['slowest']:.1f}",
            f"{result['fastest']:.1f}",
            f"{result['milliseconds']:.0f}",
            f"{result['share_of_bound']:.0%}",
        )
        for result in report["results"]
    ]
    header = (
        "precision", "processes", "batch", "beam", "shortlist",
        "sentences/s", "slowest", "fastest", "ms a batch", "of bound",
    )  # fmt: skip
    yield format_table(rows, header)
