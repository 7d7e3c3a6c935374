"""The measured network, of the size used for other toolkits, its batches, and an update."""

from __future__ import annotations

import math
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from nmt.config import TranslationConfig, schema
from nmt.data.batching import Batch
from nmt.data.batching.plan import plan_pairs
from nmt.kernels.linear.onednn import PrepackedProduct
from nmt.kernels.select import Kernels, UnsupportedReasons, choose_kernels, reference_kernels
from nmt.model.modules import without_memory
from nmt.model.translator import Translator, Vocabulary
from nmt.tasks.components import parse_saved_config
from nmt.training.graphs import CudaGraphs, UpdateGraphs
from nmt.training.objectives import TranslationObjective
from nmt.training.optimizers import OPTIMIZERS, AdamWOptions, rate_on_device
from scripts.benchmarks.launches import seconds

CONFIG = """
run: benchmark
data:
  source_language: de
  target_language: en
  train: {{source: unread, target: unread}}
  validation: {{source: unread, target: unread}}
model:
  embedding_size: {embedding}
  encoder: {{cell: gru, hidden_size: {encoder}, layers: {encoder_layers}}}
  decoder: {{cell: gru, hidden_size: {decoder}, layers: {decoder_layers}}}
  attention: {attention}
  dropout: {{embedding: 0.1, layer: 0.1, output: 0.1}}
"""
# A product of the decoder's kind: 4,096 rows, 512 features to 3 x 512 gates. A GPU is faster with larger ones.
PRODUCT = {"cpu": (4096, 512, 1536), "cuda": (8192, 4096, 4096)}
PRODUCTS = {"cpu": 1, "cuda": 20}
"""Updates of a run without synchronization, which takes a GPU some milliseconds."""
FIRST_PIECE = 4
AGREEMENT = {"fp32": 1e-4, "bf16": 2e-2}
"""Largest difference of the gradients, as a share of their norm.

bf16 rounds a number by up to 2^-8 of it, 3.9e-3, and a gradient comes of several rounded products in turn. In the plain
loop as in what is fused it differs by 4e-3 to 9e-3 with --quick and any preset, by 5e-3 to 1.1e-2 at the sizes of
`growth`, most with targets of 120 pieces. Twice that is still less than a fault makes: with --quick 2.6e-2 or more
where a recurrent matrix of the encoder has no gradient, 1e-1 where one piece of a target is another one."""


Kernel = Literal["auto", "reference", "graphed", "compiled"]
KERNELS: tuple[Kernel, ...] = ("reference", "auto")
COMPILER = "inductor"
"""Backend of `torch.compile`."""


@dataclass(frozen=True)
class Variant:
    """A way to compute an update."""

    precision: Literal["fp32", "bf16"]
    kernel: Kernel

    @property
    def counted(self) -> Variant:
        """Returns the variant that calls the same products one by one, as CUDA graphs and compiled code do not."""
        kernels: dict[Kernel, Kernel] = {"graphed": "auto", "compiled": "reference"}
        return replace(self, kernel=kernels.get(self.kernel, self.kernel))

    @property
    def dtype(self) -> torch.dtype:
        return torch.bfloat16 if self.precision == "bf16" else torch.float32


def model_options(
    attention: str, *, quick: bool = False, encoder_layers: int = 2, decoder_layers: int = 1
) -> schema.ModelConfig:
    """Returns the network: embeddings 256, encoder 2 x 256, decoder 512; with `quick` a sixteenth of that."""
    embedding, encoder, decoder = (16, 16, 32) if quick else (256, 256, 512)
    text = CONFIG.format(
        embedding=embedding,
        encoder=encoder,
        decoder=decoder,
        attention=attention,
        encoder_layers=encoder_layers,
        decoder_layers=decoder_layers,
    )
    return network_of(text)


def network_of(config: str) -> schema.ModelConfig:
    """Returns the network of a config, given as text."""
    parsed = parse_saved_config(config, "benchmark")
    assert isinstance(parsed, TranslationConfig), "the benchmark translates"
    return parsed.model


def caption_batches(batch_tokens: int, vocabulary: int, count: int = 4) -> list[Batch]:
    """Batches of random pieces in pairs whose lengths are distributed as in Multi30k (bpe 8,000: 13.6 source and 13.8
    target pieces on average), made by the batching that training uses."""
    rng = np.random.default_rng(1)
    pairs = 29_000
    target = np.rint(rng.lognormal(np.log(13.2), 0.30, pairs)).clip(3, 60).astype(np.int64) + 1
    source = np.rint(target * rng.normal(0.98, 0.15, pairs)).clip(3, 60).astype(np.int64) + 1
    plan = plan_pairs(np.arange(pairs), source, target, batch_tokens, 1, rng, in_few_shapes=True)
    generator = torch.Generator().manual_seed(1)
    return [
        random_batch(source[rows], target[rows], vocabulary, generator)
        for rows in (plan.batch(number) for number in range(count))
    ]


def even_batch(sentences: int, source: int, target: int, vocabulary: int) -> Batch:
    """Returns a batch of random pieces; all sentences of a side have one length."""
    lengths = np.full(sentences, source), np.full(sentences, target)
    return random_batch(*lengths, vocabulary, torch.Generator().manual_seed(1))


def random_batch(source: Any, target: Any, vocabulary: int, generator: torch.Generator) -> Batch:
    """Returns a batch of random pieces in pairs of these lengths."""

    def pieces(lengths: Any) -> torch.Tensor:
        return torch.randint(FIRST_PIECE, vocabulary, (len(lengths), int(lengths.max())), generator=generator)

    sides = pieces(source), torch.from_numpy(source), pieces(target), torch.from_numpy(target)
    return Batch(*sides, np.arange(len(source)), int(target.sum())).in_one_memory()


class Update:
    """One update of a fresh model: forward, backward, clipping, AdamW.

    Every instance has the same weights.
    """

    def __init__(self, model: schema.ModelConfig, vocabulary: int, variant: Variant, device: torch.device) -> None:
        torch.manual_seed(1)
        is_compiled = variant.kernel == "compiled"
        kernel = "reference" if variant.kernel == "compiled" else variant.kernel
        self.kernels = choose_kernels(kernel, device, unsupported_reasons(model))
        self.translator = Translator(model, Vocabulary(vocabulary, vocabulary, bos=2), self.kernels).to(device).train()
        objective = TranslationObjective(self.translator, label_smoothing=0.1)
        self.objective: Any = torch.compile(objective, backend=COMPILER, dynamic=False) if is_compiled else objective
        self.optimizer = OPTIMIZERS.build(AdamWOptions(), self.translator)
        self.device = device
        self.variant = variant
        is_graphed = variant.kernel == "graphed"
        self.graphs = UpdateGraphs(self.compute_masked, device, CudaGraphs()) if is_graphed else None

    def __call__(self, batch: Batch) -> None:
        if self.graphs:
            self.graphs.run(batch, (1 / batch.target_tokens, AdamWOptions().learning_rate))
        else:
            self.compute(self.on_device(batch), 1 / batch.target_tokens)

    def on_device(self, batch: Batch) -> Batch:
        """Returns the batch as the variant takes it; compiled code has no lengths of the host."""
        if self.variant.kernel != "compiled":
            return self.graphs.masked(batch) if self.graphs else batch.to(self.device)
        assert batch.memory_M is not None
        return batch.masked(batch.memory_M.to(self.device, non_blocking=True))

    def compute(self, batch: Batch, scale: float | torch.Tensor) -> torch.Tensor:
        """Computes an update; returns the norm of its gradient."""
        self.backward(batch, scale)
        norm = torch.nn.utils.clip_grad_norm_(self.translator.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return norm

    def compute_masked(self, batch: Batch, numbers: torch.Tensor) -> torch.Tensor:
        """Computes an update whose scale and learning rate are on the device."""
        with rate_on_device(self.optimizer, numbers[1]):
            return self.compute(batch, numbers[0])

    def backward(self, batch: Batch, scale: float | torch.Tensor) -> None:
        """Adds the gradients of a batch on the device."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.variant.precision == "bf16"):
            losses = self.objective(batch)
        (losses.trained[0] * scale).backward()

    def gradients(self, batch: Batch) -> torch.Tensor:
        """Returns all gradients of a batch as one vector."""
        torch.manual_seed(2)
        self.backward(self.on_device(batch), 1 / batch.target_tokens)
        flat = [parameter.grad.flatten() for parameter in self.translator.parameters() if parameter.grad is not None]
        self.optimizer.zero_grad(set_to_none=True)
        return torch.cat(flat)

    def flops(self, batch: Batch) -> float:
        """Counts the floating-point operations of the products of one update."""
        with flop_counter() as counter:
            self(batch)
        return float(counter.get_total_flops())

    def timed(self, *batches: Batch) -> float:
        """Returns the mean seconds of an update, over a run that synchronizes only at its end."""

        def run() -> None:
            for batch in batches:
                self(batch)

        return seconds(run, self.device) / len(batches)


def comparable(model: schema.ModelConfig) -> schema.ModelConfig:
    """Returns the network whose gradients are compared: without dropout, which implementations draw differently."""
    none = schema.DropoutConfig.model_validate(dict.fromkeys(schema.DropoutConfig.model_fields, 0.0))
    return model.model_copy(update={"dropout": none})


def difference(update: Update, expected: torch.Tensor, batch: Batch) -> float:
    """Returns the norm of the difference from the expected gradients, relative to theirs.

    Ends the benchmark where it is too large: a speed is worth nothing where the result is another one. On a GPU, which
    may be there for a short time, it warns instead.
    """
    share = float((update.gradients(batch) - expected).norm() / expected.norm())
    if not share <= AGREEMENT[update.variant.precision]:
        message = (
            f"scripts/benchmark: {update.variant.precision} {update.variant.kernel}: "
            f"the gradients differ from those of the reference by {share:.1e} of their norm"
        )
        if update.device.type == "cpu":
            sys.exit(message)
        print(f"warning: {message}", file=sys.stderr)
    return share


def can_be_graphed(model: schema.ModelConfig, device: torch.device) -> bool:
    """Returns whether updates can run from CUDA graphs on the device."""
    if device.type != "cuda" or not choose_kernels("auto", device, unsupported_reasons(model)).skips_positions:
        return False
    return not without_memory(lambda: Translator(model, Vocabulary(1, 1, 0), reference_kernels())).unmasked_reason()


def unsupported_reasons(model: schema.ModelConfig) -> UnsupportedReasons:
    """Returns why parts of the network have no implementation but the reference."""
    return without_memory(lambda: Translator(model, Vocabulary(1, 1, 0), reference_kernels())).unsupported_reasons()


def kernel_name(kernels: Kernels, kernel: Kernel = "auto") -> str:
    """Returns a name for the chosen kernels."""
    if kernel in ("graphed", "compiled"):
        return kernel
    reference = reference_kernels()
    if kernels.cross_entropy is reference.cross_entropy:
        return "reference"
    parts = {"loss": True, "encoder": kernels.layers is not reference.layers, "recurrence": kernels.steps is not None}
    return "fused" if all(parts.values()) else "fused " + " and ".join(name for name, fused in parts.items() if fused)


def flop_counter() -> FlopCounterMode:
    """Counts the operations of products as they are called, also by oneDNN and cuDNN, and added in place."""
    of_libraries = {
        torch.ops.mkldnn._linear_pointwise: _linear_flops,
        torch.ops.aten.addmm_: _added_flops,
        torch.ops.aten._cudnn_rnn: recurrent_flops,
        torch.ops.aten._cudnn_rnn_backward: _recurrent_backward_flops,
        torch.ops.aten.mkldnn_rnn_layer: _layer_flops,
        torch.ops.aten.mkldnn_rnn_layer_backward: _layer_backward_flops,
    }
    return FlopCounterMode(display=False, custom_mapping=of_libraries)


def _linear_flops(rows: torch.Size, weight: torch.Size, *_: Any, **__: Any) -> int:
    return 2 * math.prod(rows) * weight[0]


def _added_flops(total: torch.Size, one: torch.Size, other: torch.Size, *_: Any, **__: Any) -> int:
    return 2 * math.prod(one) * other[1]


def recurrent_flops(inputs: torch.Size, weights: Sequence[torch.Size], *_: Any, **__: Any) -> int:
    """Counts those of recurrent layers: each input element meets each matrix of each layer and direction."""
    return 2 * math.prod(inputs[:-1]) * sum(math.prod(weight) for weight in weights if len(weight) == 2)


def _recurrent_backward_flops(inputs: torch.Size, weights: Sequence[torch.Size], *_: Any, **__: Any) -> int:
    return 2 * recurrent_flops(inputs, weights)


def _layer_flops(inputs: torch.Size, *weights: Any, **__: Any) -> int:
    """Counts those of oneDNN's layer in one direction."""
    return recurrent_flops(inputs, weights[:2])


def _layer_backward_flops(inputs: torch.Size, *weights: Any, **__: Any) -> int:
    return 2 * recurrent_flops(inputs, weights[:2])


class ProductRate(NamedTuple):
    """Floating-point operations per second of a large product, the best of several."""

    best: float
    """By PyTorch or oneDNN, whichever is faster: the bound of every program."""
    pytorch: float
    """By PyTorch alone: the bound of a program that uses PyTorch's products."""


def product_rate(dtype: torch.dtype, device: torch.device, repeats: int = 5) -> ProductRate:
    """Measures both in turns."""
    rows, inner, columns = PRODUCT[device.type]
    left = torch.randn(rows, inner, device=device).to(dtype)
    weight = torch.randn(columns, inner, device=device).to(dtype)
    right, factor = weight.t().contiguous(), PrepackedProduct(weight)
    flops = 2.0 * rows * inner * columns
    turns = [
        (_rate(lambda: left @ right, flops, device), _rate(lambda: factor.product(left), flops, device))
        for _ in range(repeats)
    ]
    pytorch, other = (max(rates) for rates in zip(*turns, strict=True))
    return ProductRate(max(pytorch, other), pytorch)


def _rate(multiply: Callable[[], torch.Tensor], flops: float, device: torch.device) -> float:
    calls = PRODUCTS[device.type]

    def run() -> None:
        for _ in range(calls):
            multiply()

    return calls * flops / seconds(run, device)


@dataclass(frozen=True)
class Spread:
    """Statistics of repeated measurements."""

    median: float
    least: float
    most: float

    @staticmethod
    def of(values: list[float]) -> Spread:
        return Spread(statistics.median(values), min(values), max(values))

    def text(self, form: str) -> str:
        """Formats them for a table: `1.05 (0.98 to 1.10)`."""
        return f"{self.median:{form}} ({self.least:{form}} to {self.most:{form}})"
