"""Embeddings of a trained model for another vocabulary: fine-tuning with a tokenizer of the new text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from nmt.checkpoint.folder import Loaded
from nmt.data.tokenizer import Tokenizer, TokenizerPair
from nmt.runtime import logger

SOURCE_TABLES = ("encoder.embedding.table.weight",)
TARGET_TABLES = ("decoder.embedding.table.weight", "projection.weight", "projection.bias")
"""Names of the weights with a row for each piece. A tied one has the first of its names."""


def with_vocabulary(model: Loaded, tokenizers: TokenizerPair) -> Loaded:
    """Returns the model with rows for the pieces of these tokenizers, in place of its own.

    A piece that the model has keeps its row. Another one gets the mean of the rows of those that spell it, or the mean
    of all rows.
    """
    tensors = dict(model.tensors)
    sides = (
        ("source", SOURCE_TABLES, model.tokenizers.source, tokenizers.source),
        ("target", TARGET_TABLES, model.tokenizers.target, tokenizers.target),
    )
    for side, names, old, new in sides:
        spellings = spell(old, new)
        known = sum(len(ids) == 1 for ids in spellings)
        logger.info("%s: the model to start from knows %s of %s pieces", side, f"{known:,}", f"{new.size:,}")
        for name in names:
            if name in tensors:
                tensors[name] = _rows(tensors[name], spellings)
    return replace(model, tensors=tensors, tokenizers=tokenizers)


def spell(old: Tokenizer, new: Tokenizer) -> list[list[int]]:
    """Returns for each piece of the new tokenizer the old pieces that spell it: itself, or the longest from its left.

    A character that no old piece begins with is left out, so that a spelling may be empty.
    """
    ids = {piece: id_ for id_, piece in enumerate(old.pieces(range(old.size)))}
    special = {new.pad: old.pad, new.unk: old.unk, new.bos: old.bos, new.eos: old.eos}
    longest = max(map(len, ids))
    pieces = new.pieces(range(new.size))
    return [[special[id_]] if id_ in special else _spelling(piece, ids, longest) for id_, piece in enumerate(pieces)]


def _spelling(piece: str, ids: Mapping[str, int], longest: int) -> list[int]:
    spelling, begin = [], 0
    while begin < len(piece):
        ends = range(min(len(piece), begin + longest), begin, -1)
        end = next((end for end in ends if piece[begin:end] in ids), None)
        if end is None:
            begin += 1
        else:
            spelling.append(ids[piece[begin:end]])
            begin = end
    return spelling


def _rows(table: Tensor, spellings: Sequence[Sequence[int]]) -> Tensor:
    everything = table.mean(0)
    rows = [table[list(ids)].mean(0) if ids else everything for ids in spellings]
    return torch.stack(rows)
