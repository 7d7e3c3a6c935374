"""Records of the playground: they hold the numbers of the search itself, and an intervention does what it says."""

from __future__ import annotations

import base64
import math
from pathlib import Path

import numpy as np
import pytest

from nmt.config.schema import SearchConfig
from nmt.data.tokenizer import TokenizerPair
from nmt.errors import ConfigError
from nmt.tasks.translation.loading import System, build_system, load_model
from nmt.tasks.translation.recording import LEAST_PRUNED, record_pair, record_search
from nmt.tasks.translation.text_translation import translate_lines
from nmt.visualization.playground import BeamTrace, PackedMatrix
from tests.support.alignment import align_texts
from tests.support.models import CPU, REFERENCES, SOURCES, save_small

SEARCH = SearchConfig(beam_size=3)


def recorded(system: System, source: str = SOURCES[3], **changes: object) -> BeamTrace:
    trace = record_search(system, source, SEARCH, **changes)  # type: ignore[arg-type]
    assert trace is not None
    return trace


def path_of(trace: BeamTrace, index: int) -> list[int]:
    path = []
    while index > 0:
        path.insert(0, index)
        index = trace.nodes[index].parent
    return path


def matrix(packed: PackedMatrix | None) -> np.ndarray:
    assert packed is not None
    values = np.frombuffer(base64.b64decode(packed.values), np.int8)
    return packed.scale * values.reshape(packed.rows, packed.columns).astype(np.float64)


def test_a_matrix_is_packed_to_half_a_step() -> None:
    numbers = np.random.default_rng(1).normal(size=(3, 5))
    packed = PackedMatrix.of(numbers)
    assert (packed.rows, packed.columns) == (3, 5)
    assert np.abs(matrix(packed) - numbers).max() <= np.abs(numbers).max() / 254 + 1e-9
    assert not matrix(PackedMatrix.of(np.zeros(4))).any()


def test_the_best_path_is_the_translation(system: System) -> None:
    for source in SOURCES:
        trace = recorded(system, source)
        ((best,),) = translate_lines(system, [source], SEARCH)
        path = path_of(trace, trace.best)
        assert [trace.nodes[index].piece for index in path] == [*best.pieces, "</s>"]
        assert trace.text == best.text
        assert trace.nodes[trace.best].score == pytest.approx(best.score, abs=1e-4)
        terms = [math.log(trace.nodes[index].probability) for index in path]
        assert trace.nodes[trace.best].total == pytest.approx(sum(terms), abs=0.01)
        assert tuple(trace.source_pieces) == best.source_pieces


def test_every_branch_follows_its_parent(system: System) -> None:
    trace = recorded(system)
    assert any(not node.kept for node in trace.nodes)
    depths = [0]
    for index, node in enumerate(trace.nodes[1:], start=1):
        assert 0 <= node.parent < index
        parent = trace.nodes[node.parent]
        depths.append(depths[node.parent] + 1)
        assert parent.kept
        assert parent.expansion is not None
        assert node.total == pytest.approx(parent.total + math.log(max(node.probability, 1e-5)), abs=0.1)
        assert (node.score is not None) == (node.kept and node.piece == "</s>")
        if not node.kept:
            assert node.expansion is None
            assert node.probability >= LEAST_PRUNED
            assert (node.piece, node.probability) in parent.expansion.top
    for depth in range(1, max(depths) + 1):
        kept = [node for node, own in zip(trace.nodes, depths, strict=True) if own == depth and node.kept]
        assert 1 <= len(kept) <= SEARCH.beam_size


def test_the_numbers_of_a_step_fit_together(system: System) -> None:
    """alpha is the softmax of e, c the mean of h weighted by alpha, and the pieces are ordered by probability."""
    trace = recorded(system)
    annotations = matrix(trace.annotations)
    expansions = [node.expansion for node in trace.nodes if node.expansion is not None]
    assert len(expansions) > 5
    for each in expansions:
        assert each.weights is not None
        assert each.scores is not None
        ((weights,), (scores,)) = each.weights, each.scores
        exponentials = np.exp(np.array(scores, float))
        assert weights == pytest.approx(exponentials / exponentials.sum(), abs=2e-4)
        context = np.array(weights) @ annotations
        assert matrix(each.context)[0] == pytest.approx(context, abs=0.03)
        probabilities = [probability for _, probability in each.top]
        assert probabilities == sorted(probabilities, reverse=True)
        assert 0.0 < sum(probabilities) <= 1.001


def test_only_the_best_path_of_a_page_has_vectors(system: System) -> None:
    trace = record_search(system, SOURCES[3], SEARCH, whole=False)
    assert trace is not None
    best = {0, *path_of(trace, trace.best)}
    for index, node in enumerate(trace.nodes):
        if node.expansion is not None:
            assert node.expansion.weights is not None
            assert (node.expansion.query is not None) == (index in best)


def test_a_local_window_has_a_center_and_no_scores_outside(tmp_path: Path, tokenizers: TokenizerPair) -> None:
    overrides = ["model.attention.window={kind: local_predictive, half_width: 1}"]
    path = save_small(
        tmp_path / "local", tokenizers, attention="luong2015_local_predictive", updates=5, overrides=overrides
    )
    trace = recorded(build_system([load_model(path, None, CPU)], CPU), SOURCES[4])
    assert trace.half_width == 1
    expansion = trace.nodes[0].expansion
    assert expansion is not None
    assert expansion.centers is not None
    assert expansion.scores is not None
    assert expansion.weights is not None
    (center,) = expansion.centers
    for position, (score, weight) in enumerate(zip(expansion.scores[0], expansion.weights[0], strict=True)):
        if abs(position - center) > 1.0 + 1e-4:
            assert score is None
            assert weight == 0.0


def test_pieces_that_are_given_begin_every_hypothesis(system: System) -> None:
    own = recorded(system)
    first = next(piece for piece, _ in own.nodes[0].expansion.top[1:] if piece != "</s>")  # type: ignore[union-attr]
    changed = recorded(system, prefix=[first])
    assert {node.piece for node in changed.nodes if node.parent == 0 and node.kept} == {first}
    assert changed.prefix == [first]
    # The model's own probabilities stay: what was forced is not made more probable.
    assert changed.nodes[0].expansion == own.nodes[0].expansion
    with pytest.raises(ConfigError, match="no such piece"):
        recorded(system, prefix=["no such piece"])


def test_weights_that_are_given_replace_those_of_their_step(system: System) -> None:
    own = recorded(system)
    positions = len(own.source_pieces) + 1
    weights = [0.0] * positions
    weights[2] = 1.0
    changed = recorded(system, weights={1: weights})
    at = [node.parent == 0 and node.expansion is not None for node in changed.nodes]
    second = [node.expansion for node, is_second in zip(changed.nodes, at, strict=True) if is_second]
    assert second
    for expansion in second:
        assert expansion is not None
        assert expansion.weights == [weights]
        assert matrix(expansion.context)[0] == pytest.approx(matrix(changed.annotations)[2], abs=0.03)
    assert changed.nodes[0].expansion == own.nodes[0].expansion
    for wrong in ([1.0], [-0.1] * positions, [math.nan] * positions):
        with pytest.raises(ConfigError, match="the weights at position 1"):
            recorded(system, weights={1: wrong})


def test_a_given_pair(system: System) -> None:
    pair = record_pair(system, SOURCES[0], REFERENCES[0], SEARCH)
    assert pair is not None
    assert pair.links == align_texts(system, [SOURCES[0]], [REFERENCES[0]], SEARCH.batch_tokens)[0]
    assert pair.target == REFERENCES[0]
    steps = np.frombuffer(base64.b64decode(pair.weights), np.uint8)
    assert len(steps) == (len(pair.source_pieces) + 1) * (len(pair.target_pieces) + 1)
    assert record_pair(system, "", REFERENCES[0], SEARCH) is None


def test_a_blank_line_has_no_search(system: System) -> None:
    assert record_search(system, "", SEARCH) is None
