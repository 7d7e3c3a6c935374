"""Beam searches and given pairs as records of the playground: written into its page, or answers of a server.

Shapes: H hypotheses, N heads, S source pieces and the end symbol, C memory features, A decoder state.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from nmt.config.schema import SearchConfig
from nmt.tasks.translation.forced_decoding import align_pair, forced_attention
from nmt.tasks.translation.loading import System
from nmt.tasks.translation.stepwise import Interventions, SearchStep, forced_ids, forced_weights, search_steps
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
    changes = Interventions(forced_ids(tokenizers.target, prefix, {}), forced_weights(weights or {}, len(ids) + 1))
    single = len(system.translators) == 1
    steps = list(search_steps(system, ids, search, changes, candidates=TOP_PIECES, internals=single))
    if not steps:
        return None
    nodes, continued, best = _tree(steps)
    path = {best}
    while (parent := nodes[min(path)].parent) >= 0:
        path.add(parent)
    for index, (step, row) in continued.items():
        nodes[index] = nodes[index].model_copy(update={"expansion": _expansion(step, row, whole or index in path)})
    internals, finished = steps[0].internals, steps[-1].finished
    return BeamTrace(
        source=source,
        source_pieces=tokenizers.source.pieces(ids),
        beam_size=search.beam_size if search.kind == "beam" else 1,
        prefix=list(prefix),
        nodes=nodes,
        best=best,
        text=finished[0].text if finished else "",
        annotations=PackedMatrix.of(internals.annotations) if internals else None,
        half_width=internals.half_width if internals else None,
    )


def record_pair(system: System, source: str, target: str, search: SearchConfig) -> PairAttention | None:
    """Records the attention of a given translation and its word alignment; None if a side has no piece.

    Raises as `forced_attention`.
    """
    (attention,) = forced_attention(system, [source], [target], search.batch_tokens)
    if attention is None:
        return None
    return pair_attention(attention, align_pair(attention, system.tokenizers, "words"))


def _tree(steps: Sequence[SearchStep]) -> tuple[list[BeamNode], dict[int, tuple[SearchStep, int]], int]:
    """Returns the nodes of a search's tree, kept and pruned; of those that are continued the step and the row of the
    hypothesis in it, by index; and the index of the best hypothesis that ended."""
    nodes = [BeamNode(parent=-1, piece="", probability=1.0, total=0.0, kept=True)]
    continued: dict[int, tuple[SearchStep, int]] = {}
    scores: dict[int, float] = {}

    def add(parent: int, piece: str, log_probability: float, total: float, score: float | None, *, kept: bool) -> int:
        probability, total = rounded_numbers([math.exp(log_probability), total])
        rounded = None if score is None else rounded_numbers([score])[0]
        node = BeamNode(parent=parent, piece=piece, probability=probability, total=total, kept=kept, score=rounded)
        nodes.append(node)
        return len(nodes) - 1

    after = [0]
    for step in steps:
        before, after = after, []
        for row, (index, hypothesis) in enumerate(zip(before, step.before, strict=True)):
            if not hypothesis.has_ended:
                continued[index] = step, row
        for each in step.hypotheses:
            assert each.parent is not None, "a step continues hypotheses"
            piece = END if each.has_ended else each.pieces[-1]
            log_probability = each.piece_log_probabilities[-1]
            index = add(before[each.parent], piece, log_probability, each.log_probability, each.score, kept=True)
            after.append(index)
            if each.score is not None:
                scores[index] = each.score
        pruned = [
            (candidate, before[row])
            for row, candidates in enumerate(step.candidates)
            for candidate in candidates
            if candidate.kept is None and candidate.is_allowed and math.exp(candidate.log_probability) >= LEAST_PRUNED
        ]
        for candidate, parent in sorted(pruned, key=lambda each: -each[0].total)[:SHOWN_PRUNED]:
            add(parent, candidate.piece, candidate.log_probability, candidate.total, None, kept=False)
    return nodes, continued, max(scores, key=scores.__getitem__, default=0)


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
