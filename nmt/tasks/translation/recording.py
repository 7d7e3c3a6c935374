"""Beam searches and given pairs as records of the playground: written into its page, or answers of a server.

Shapes: H hypotheses, N heads, S source pieces and the end symbol, C memory features, A decoder state.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from nmt.config.schema import SearchConfig
from nmt.errors import ConfigError
from nmt.tasks.translation.forced_decoding import align_pair, forced_attention
from nmt.tasks.translation.loading import System
from nmt.tasks.translation.stepwise import Interventions, SearchStep, forced_ids, search_steps
from nmt.visualization.attention_map import END
from nmt.visualization.pages import pair_attention
from nmt.visualization.playground import (
    TOP_PIECES,
    BeamNode,
    BeamTrace,
    Expansion,
    PackedMatrix,
    PairAttention,
    rounded_numbers,
)

SHOWN_PRUNED = 4
"""Most probable pruned candidates of a step that are recorded."""
LEAST_PRUNED = 0.02
"""Least probability of a pruned candidate that is recorded."""


def record_search(
    system: System,
    source: str,
    search: SearchConfig,
    prefix: Sequence[str] = (),
    weights: Mapping[int, Sequence[float]] | None = None,
    *,
    whole: bool = True,
) -> BeamTrace | None:
    """Records the beam search for a sentence; None for one without a piece.

    Args:
        prefix: target pieces that every hypothesis begins with.
        weights: attention weights [S] by target position, in place of the model's.
        whole: whether every hypothesis has its vectors, or those of the best one alone.

    Raises:
        ConfigError: a piece is not in the vocabulary, or weights do not fit.
        CheckpointError: the model gives no finite probabilities.
    """
    tokenizers = system.tokenizers
    ids = tokenizers.source.encode([source])[0]
    changes = Interventions(forced_ids(tokenizers.target, prefix, {}), _weights_of(weights or {}, len(ids) + 1))
    single = len(system.translators) == 1
    steps = search_steps(system, ids, search, changes, candidates=TOP_PIECES, internals=single)
    recorder = _Recorder()
    for step in steps:
        recorder.add(step)
    if not recorder.nodes[1:]:
        return None
    best = recorder.best
    path = {best}
    while (parent := recorder.nodes[min(path)]["parent"]) >= 0:
        path.add(parent)
    return BeamTrace(
        source=source,
        source_pieces=tokenizers.source.pieces(ids),
        beam_size=search.beam_size if search.kind == "beam" else 1,
        prefix=list(prefix),
        nodes=[_node(node, whole or index in path) for index, node in enumerate(recorder.nodes)],
        best=best,
        text=recorder.text,
        annotations=None if recorder.annotations is None else PackedMatrix.of(recorder.annotations),
        half_width=recorder.half_width,
    )


def record_pair(system: System, source: str, target: str, search: SearchConfig) -> PairAttention | None:
    """Records the attention of a given translation and its word alignment; None if a side has no piece.

    Raises as `forced_attention`.
    """
    (attention,) = forced_attention(system, [source], [target], search.batch_tokens)
    if attention is None:
        return None
    return pair_attention(attention, align_pair(attention, system.tokenizers, "words"))


def _weights_of(weights: Mapping[int, Sequence[float]], positions: int) -> dict[int, npt.NDArray[np.float64]]:
    arrays = {position: np.asarray(row, np.float64) for position, row in weights.items()}
    for position, row in arrays.items():
        if row.shape != (positions,) or not np.isfinite(row).all() or row.min() < 0.0 or row.sum() > 1.01:
            raise ConfigError(
                f"weights.{position}: must be {positions} numbers from 0 on, one for each source piece and the end "
                "symbol, whose sum is at most 1"
            )
    return arrays


class _Recorder:
    """Collects the nodes of a search's tree, step by step."""

    def __init__(self) -> None:
        self.nodes: list[dict[str, Any]] = [
            {"parent": -1, "piece": "", "probability": 1.0, "total": 0.0, "kept": True, "score": None, "step": None}
        ]
        self.best, self.text = 0, ""
        self.annotations: npt.NDArray[Any] | None = None
        self.half_width: int | None = None
        self._before = [0]
        """Node of each hypothesis before the next step."""

    def add(self, step: SearchStep) -> None:
        """Adds the nodes that a step makes, kept and pruned."""
        before = self._before
        if step.internals is not None:
            self.annotations, self.half_width = step.internals.annotations, step.internals.half_width
        for row, (index, hypothesis) in enumerate(zip(before, step.before, strict=True)):
            if not hypothesis.has_ended:
                self.nodes[index]["step"] = (step, row)
        self._before = []
        for hypothesis in step.hypotheses:
            assert hypothesis.parent is not None, "a step continues hypotheses"
            self._before.append(len(self.nodes))
            piece = END if hypothesis.has_ended else hypothesis.pieces[-1]
            self._append(
                before[hypothesis.parent],
                piece,
                hypothesis.piece_log_probabilities[-1],
                hypothesis.log_probability,
                True,
                hypothesis.score,
            )
            best = self.nodes[self.best]["score"]
            if hypothesis.score is not None and (best is None or hypothesis.score > best):
                self.best, self.text = len(self.nodes) - 1, hypothesis.text
        pruned = [
            (candidate, before[row])
            for row, candidates in enumerate(step.candidates)
            for candidate in candidates
            if candidate.kept is None and candidate.is_allowed and math.exp(candidate.log_probability) >= LEAST_PRUNED
        ]
        for candidate, parent in sorted(pruned, key=lambda each: -each[0].total)[:SHOWN_PRUNED]:
            self._append(parent, candidate.piece, candidate.log_probability, candidate.total, False, None)

    def _append(
        self, parent: int, piece: str, log_probability: float, total: float, kept: bool, score: float | None
    ) -> None:
        values = {"parent": parent, "piece": piece, "probability": math.exp(log_probability), "total": total}
        self.nodes.append({**values, "kept": kept, "score": score, "step": None})


def _node(node: Mapping[str, Any], with_vectors: bool) -> BeamNode:
    values = {name: value for name, value in node.items() if name != "step"}
    for name in ("probability", "total", "score"):
        values[name] = None if values[name] is None else rounded_numbers([values[name]])[0]
    if node["step"] is None:
        return BeamNode(**values)
    step, row = node["step"]
    return BeamNode(**values, expansion=_expansion(step, row, with_vectors))


def _expansion(step: SearchStep, row: int, with_vectors: bool) -> Expansion:
    internals, candidates = step.internals, step.candidates[row][:TOP_PIECES]
    top = [(each.piece, rounded_numbers([math.exp(each.log_probability)])[0]) for each in candidates]
    if step.attention is None:
        return Expansion(top=top)
    weights = [rounded_numbers(head_S) for head_S in step.attention[row]]
    if internals is None:
        return Expansion(top=top, weights=weights)
    scores = None
    if internals.energies is not None:
        scores = [_finite(head_S) for head_S in internals.energies[row]]
    return Expansion(
        top=top,
        weights=weights,
        scores=scores,
        centers=None if internals.centers is None else rounded_numbers(internals.centers[row]),
        query=PackedMatrix.of(internals.query[row]) if with_vectors and internals.query is not None else None,
        context=PackedMatrix.of(internals.context[row]) if with_vectors else None,
    )


def _finite(values: Iterable[float]) -> list[float | None]:
    return [rounded_numbers([value])[0] if math.isfinite(value) else None for value in values]
