"""Modules that all networks share: embeddings, a linear layer, module lists, and networks without memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from nmt.kernels.select import Kernels


class Embedding(nn.Module):
    """Embeds piece ids: rows of the table times `scale`. In training it drops whole words (Gal 2016) and elements.

    A fresh table has entries of deviation 1 / scale, so that embeddings have variance 1 (Vaswani 2017, section 3.4).
    The scale is a constant. It is saved with the weights, because that of checkpoints of earlier versions is 1.
    """

    scale: Tensor

    def __init__(self, table: nn.Embedding, word_dropout: float, dropout: float, kernels: Kernels) -> None:
        super().__init__()
        self.table = table
        self.register_buffer("scale", torch.tensor(embedding_scale(table.embedding_dim)))
        self.word_dropout = word_dropout
        self.dropout = dropout
        self.drop = kernels.dropout

    def forward(self, ids_BT: Tensor) -> Tensor:
        """Embeddings [B, T, E] of ids [B, T]."""
        embedded_BTE: Tensor = self.table(ids_BT) * self.scale
        if self.training and self.word_dropout > 0.0:
            kept_BT1 = torch.rand(ids_BT.shape, device=ids_BT.device) >= self.word_dropout
            embedded_BTE = embedded_BTE * kept_BT1.unsqueeze(-1)
        return self.drop(embedded_BTE, self.dropout, self.training)


def embedding_scale(features: int) -> float:
    """Returns the factor of embeddings of this width."""
    return float(features**0.5)


def embedding_table(vocabulary_size: int, features: int) -> nn.Embedding:
    """Returns a table whose entries, times the scale, have variance 1."""
    table = nn.Embedding(vocabulary_size, features)
    nn.init.normal_(table.weight, std=1.0 / embedding_scale(features))
    return table


Module = TypeVar("Module", bound=nn.Module)


def module_list(modules: Iterable[Module]) -> Sequence[Module]:
    """Returns an `nn.ModuleList`, typed by its members; PyTorch types them as `Module`."""
    return cast("Sequence[Module]", nn.ModuleList(modules))


class Linear(nn.Linear):
    """A linear layer that usually runs over all positions at once."""

    def __init__(self, in_features: int, out_features: int, kernels: Kernels, *, bias: bool = True) -> None:
        super().__init__(in_features, out_features, bias)
        self.product = kernels.linear

    def forward(self, input: Tensor) -> Tensor:
        return self.product(input, self.weight, self.bias)


def initialize(*layers: nn.Linear | None, gates: int = 1) -> None:
    """Initialises the weights of linear layers by Glorot (2010), a block of outputs for each gate, and biases as 0."""
    for layer in layers:
        if layer is not None:
            for block in layer.weight.chunk(gates):
                nn.init.xavier_uniform_(block)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def parameter_counts(modules: Mapping[str, nn.Module]) -> list[tuple[str, int]]:
    """Returns the name and number of parameters of each module that has any; a shared one counts in the first only."""
    seen: set[nn.Parameter] = set()
    counts = []
    for name, module in modules.items():
        fresh = set(module.parameters()) - seen
        seen |= fresh
        counts.append((name, sum(parameter.numel() for parameter in fresh)))
    return [(name, count) for name, count in counts if count]


def without_memory(build: Callable[[], Module]) -> Module:
    """Builds a network on the device `meta`: shapes without values. Draws no random numbers."""
    with torch.device("meta"), without_initialization():
        return build()


@contextmanager
def without_initialization() -> Iterator[None]:
    """Skips the random initialisation of a network that is built within; the values of its weights are undefined.

    It would take longer than reading the weights from a file, and on `meta` import PyTorch's compiler.
    """
    with _WithoutInitialization():
        yield


class _WithoutInitialization(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if name in ("normal_", "uniform_"):
            return args[0] if args else kwargs["tensor"]
        if name == "linalg_qr":  # in nn.init.orthogonal_
            return args[0], args[0][: args[0].shape[1]]
        return func(*args, **(kwargs or {}))
