"""Search step by step: the same search as a translation, its numbers against the equations, and interventions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import nmt
from nmt.config.schema import SearchConfig
from nmt.data.tokenizer import TokenizerPair
from nmt.errors import ConfigError
from nmt.tasks.translation.loading import TrainedModel, load_model
from nmt.tasks.translation.stepwise import BeamHypothesis, SearchStep
from tests.support.models import CPU, REFERENCES, SOURCES, save_small

ATTENTIONS = {
    "bahdanau": "bahdanau2015",
    "previous": "{preset: bahdanau2015, wiring: {kind: bahdanau, readout_state: previous}}",
    "luong": "luong2015_global_general",
    "monotonic": "{preset: luong2015_local_monotonic, window: {kind: local_monotonic, half_width: 2}}",
    "predictive": "{preset: luong2015_local_predictive, window: {kind: local_predictive, half_width: 2}}",
    "heads": "{preset: bahdanau2015, heads: 2}",
    "conditional": "nematus2017",
    "gnmt": "gnmt_v2",
    "coverage": "tu2016_neural",
    "sparse": "{preset: bahdanau2015, normalizer: sparsemax}",
    "latent": "{preset: bahdanau2015, alignment: latent}",
    "none": "sutskever2014",
}
WHOLE = [name for name in ATTENTIONS if name not in ("none", "monotonic", "predictive")]
"""Those whose weights are of the whole source."""
LINE = SOURCES[2]
SHORT: dict[str, Any] = {"max_length_ratio": 0.5, "max_length_offset": 2}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, tokenizers: TokenizerPair) -> Mapping[str, TrainedModel]:
    """Networks that have learned nothing: their hypotheses compete in every step."""
    folder = tmp_path_factory.mktemp("untrained")

    def model(name: str) -> TrainedModel:
        return load_model(
            save_small(folder / name, tokenizers, attention=ATTENTIONS[name], updates=0, seed=3), None, CPU
        )

    return {name: model(name) for name in ATTENTIONS}


def steps_of(model: TrainedModel, *more: TrainedModel, line: str = LINE, **arguments: Any) -> list[SearchStep]:
    return list(nmt.TextTranslator([model, *more], CPU).steps(line, **SHORT, **arguments))


def all_hypotheses(steps: list[SearchStep]) -> Iterator[BeamHypothesis]:
    for step in steps:
        yield from step.hypotheses


def forced_log_probabilities(model: TrainedModel, hypothesis: BeamHypothesis) -> list[float]:
    """The log-probability of each piece, and of the end if the hypothesis has ended, by teacher forcing."""
    tokenizer, translator = model.tokenizers.target, model.translator
    target = [*hypothesis.ids, *([tokenizer.eos] if hypothesis.has_ended else [])]
    source = [*model.tokenizers.source.encode([LINE])[0], model.tokenizers.source.eos]
    with torch.no_grad():
        logits = translator(torch.tensor([source]), torch.tensor([len(source)]), torch.tensor([target]))
        terms: list[float] = logits[0].log_softmax(-1).gather(1, torch.tensor(target)[:, None]).squeeze(1).tolist()
    return terms


@pytest.mark.parametrize("name", ATTENTIONS)
def test_the_steps_are_those_of_a_translation(models: Mapping[str, TrainedModel], name: str) -> None:
    translator = nmt.TextTranslator([models[name]], CPU)
    for search in ({"beam_size": 3, "length_penalty": 0.4}, {"kind": "greedy"}, {"kind": "sampling", "seed": 5}):
        best = 2 if search.get("beam_size") else 1
        (expected,) = translator.translate([LINE], n_best=best, heads=True, **SHORT, **search)
        steps = list(translator.steps(LINE, n_best=best, **SHORT, **search))
        for mine, other in zip(steps[-1].finished, expected.hypotheses, strict=False):
            assert (mine.ids, mine.text, mine.pieces) == (other.ids, other.text, other.pieces)
            assert (mine.score, mine.log_probability) == (other.score, other.log_probability)
            assert mine.piece_log_probabilities == other.piece_log_probabilities
            assert np.array_equal(mine.attention, other.head_attention) or name == "none"  # type: ignore[arg-type]
        assert len(steps[-1].finished) >= best


@pytest.mark.parametrize("name", ATTENTIONS)
def test_hypotheses_are_scored_as_by_teacher_forcing(models: Mapping[str, TrainedModel], name: str) -> None:
    steps = steps_of(models[name], beam_size=3)
    for number, step in enumerate(steps):
        assert step.before == (steps[number - 1].hypotheses if number else step.before)
        for hypothesis in step.hypotheses:
            assert hypothesis.parent is not None
            parent = step.before[hypothesis.parent]
            assert hypothesis.ids[: len(parent.ids)] == parent.ids
            terms = forced_log_probabilities(models[name], hypothesis)
            assert hypothesis.piece_log_probabilities == pytest.approx(terms, abs=1e-4)
            assert hypothesis.log_probability == pytest.approx(sum(terms), abs=1e-3)


def test_other_searches_are_those_of_a_translation(models: Mapping[str, TrainedModel]) -> None:
    pair = models["bahdanau"], models["luong"]
    both = nmt.TextTranslator(pair, CPU)
    searches: list[dict[str, Any]] = [{"coverage_penalty": 0.3}, {"no_repeat_ngram": 2}, {"min_length_ratio": 0.4}]
    for search in searches:
        (expected,) = both.translate([LINE], **SHORT, **search)
        best = steps_of(*pair, **search)[-1].finished[0]
        assert (best.text, best.score) == (expected.text, expected.score)
        assert np.array_equal(best.attention[0], expected.attention)  # type: ignore[index, arg-type]


@pytest.mark.parametrize("name", ATTENTIONS)
def test_candidates(models: Mapping[str, TrainedModel], name: str) -> None:
    for step in steps_of(models[name], beam_size=3, candidates=4):
        for before, candidates in zip(step.before, step.candidates, strict=True):
            assert (candidates == ()) == before.has_ended
            assert [each.log_probability for each in candidates] == sorted(
                (each.log_probability for each in candidates), reverse=True
            )
            assert len(candidates) >= 4 or before.has_ended
            for each in candidates:
                assert each.total == pytest.approx(before.log_probability + each.log_probability)
                if each.kept is not None:
                    after = step.hypotheses[each.kept]
                    assert (*before.ids, each.id)[: len(after.ids)] == after.ids
                    assert after.log_probability == pytest.approx(each.total)
        kept = sorted(each.kept for candidates in step.candidates for each in candidates if each.kept is not None)
        assert kept == list(range(len(step.hypotheses)))


@pytest.mark.parametrize("name", ATTENTIONS)
def test_the_models_own_weights_change_nothing(models: Mapping[str, TrainedModel], name: str) -> None:
    if name == "none":
        with pytest.raises(ConfigError, match="has no attention"):
            steps_of(models[name], attention={0: 0})
        return
    steps = steps_of(models[name], beam_size=3)
    own = {step.position: step.attention for step in steps}
    again = steps_of(models[name], beam_size=3, attention=own)
    if name in WHOLE:
        assert again == steps
        return
    # A local window sums over its own positions alone.
    for mine, other in zip(all_hypotheses(again), all_hypotheses(steps), strict=True):
        assert mine.ids == other.ids
        assert mine.piece_log_probabilities == pytest.approx(other.piece_log_probabilities, abs=1e-5)


@pytest.mark.parametrize("name", [name for name in ATTENTIONS if name != "none"])
def test_weights_of_an_intervention(models: Mapping[str, TrainedModel], name: str) -> None:
    plain, changed = (steps_of(models[name], internals=True, attention=given, beam_size=2) for given in ({}, {1: 3}))
    assert changed[0] == plain[0]
    inside = changed[1].internals
    assert inside is not None
    assert inside.weights is not None
    assert (inside.weights[..., 3] == 1.0).all()
    assert inside.weights.sum() == inside.weights[..., 3].sum()
    if name != "heads":  # c_i = h_3
        assert np.array_equal(inside.context, np.broadcast_to(inside.annotations[3], inside.context.shape))
    assert not np.array_equal(inside.readout, plain[1].internals.readout) or name == "latent"  # type: ignore[union-attr]
    assert [each.log_probability for each in changed[1].hypotheses] != [
        each.log_probability for each in plain[1].hypotheses
    ]
    later = changed[2].attention
    assert later is not None
    assert (later.max(-1) < 1.0).any()


@pytest.mark.parametrize("name", ATTENTIONS)
def test_the_equations_hold(models: Mapping[str, TrainedModel], name: str) -> None:
    model = models[name]
    steps = steps_of(model, beam_size=3, internals=True)
    for number, step in enumerate(steps):
        inside, live = step.internals, [not each.has_ended for each in step.before]
        assert inside is not None
        if number:
            # s_{i-1} of a hypothesis is s_i of the one that it continues, in the step before.
            parents = [each.parent for each in step.before]
            state = steps[number - 1].internals.state[parents]  # type: ignore[union-attr, index]
            assert np.array_equal(inside.previous_state[live], state[live])
        with torch.no_grad():
            logits = model.translator.projection(torch.from_numpy(inside.readout)) if name != "latent" else None
        for row, candidates in enumerate(step.candidates):
            for each in candidates if logits is not None else ():
                expected = float(logits[row].log_softmax(-1)[each.id])  # type: ignore[index]
                assert each.log_probability == pytest.approx(expected, abs=1e-5)
        if name == "none":
            assert (inside.weights, inside.energies, inside.query) == (None, None, None)
            continue
        weights, energies = inside.weights, inside.energies
        assert weights is not None
        assert energies is not None
        assert np.array_equal(weights, step.attention)  # type: ignore[arg-type]
        if name in WHOLE and name != "sparse":
            shifted = np.exp(energies - energies.max(-1, keepdims=True))
            assert np.allclose((shifted / shifted.sum(-1, keepdims=True))[live], weights[live], atol=1e-6)
        if name != "heads":
            assert np.allclose(weights[:, 0] @ inside.annotations, inside.context, atol=1e-6)
        if name in ("bahdanau", "previous"):
            assert np.array_equal(inside.query, inside.previous_state)  # type: ignore[arg-type]
        if name == "luong":
            assert np.array_equal(inside.query, inside.state)  # type: ignore[arg-type]
        assert (inside.centers is not None) == (name not in WHOLE)
        if inside.centers is not None:
            assert inside.half_width == 2
            distance = np.abs(np.arange(len(inside.annotations)) - inside.centers[..., None])[live]
            assert (np.isneginf(energies[live]) == (distance > 2)).all()
            assert (weights[live][distance > 2] == 0.0).all()


def test_a_prefix_and_a_piece_in_the_middle(models: Mapping[str, TrainedModel]) -> None:
    model = models["bahdanau"]
    translator, tokenizer = nmt.TextTranslator([model], CPU), model.tokenizers.target
    (expected,) = translator.translate([LINE], prefixes=["the cat"], **SHORT)
    ids = tokenizer.encode(["the cat"])[0]
    for prefix in ("the cat", ids, tokenizer.pieces(ids)):
        steps = list(translator.steps(LINE, prefix=prefix, **SHORT))
        assert (steps[-1].finished[0].text, steps[-1].finished[0].score) == (expected.text, expected.score)
        assert {each.ids[: len(ids)] for each in steps[-1].finished} == {tuple(ids)}
    piece = tokenizer.encode(["vogel"])[0][0]
    steps = steps_of(model, pieces={2: piece}, beam_size=3)
    free = steps_of(model, beam_size=3)
    assert steps[:2] == free[:2]
    assert {each.ids[2] for each in steps[2].hypotheses} == {piece}
    allowed = {each.id for candidates in steps[2].candidates for each in candidates if each.is_allowed}
    assert allowed == {piece}
    named = steps_of(model, pieces={2: tokenizer.pieces([piece])[0]}, beam_size=3)
    assert named == steps


def test_nothing_changes_between_the_steps(models: Mapping[str, TrainedModel]) -> None:
    translator = nmt.TextTranslator([models["bahdanau"]], CPU)
    expected = list(translator.steps(LINE, **SHORT))
    one, other = (translator.steps(LINE, **SHORT) for _ in range(2))
    for step in expected:
        assert next(one) == next(other) == step
        assert not torch.is_inference_mode_enabled()
        assert torch.ones(1, requires_grad=True).mul(2).requires_grad
    assert list(one) == []


def test_a_trained_model_steps(checkpoint: Path) -> None:
    translator = nmt.load(checkpoint)
    *_, last = translator.steps(SOURCES[0])
    assert last.finished[0].text == REFERENCES[0]
    assert list(translator.steps(" ")) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"line": 3}, "line: must be text, not int"),
        ({"beam_sise": 3}, "beam_sise: unknown argument; did you mean 'beam_size'"),
        ({"n_best": 9, "beam_size": 2}, "beam_size: 2 hypotheses cannot give the 9 best"),
        ({"candidates": 0}, "candidates: must be a whole number"),
        ({"prefix": ["xyzzy"]}, "prefix: 'xyzzy' is no piece of the vocabulary"),
        ({"prefix": [10**6]}, "prefix: 1000000 is no id of a piece within a translation"),
        ({"pieces": {0: "</s>"}}, "pieces: '</s>' is no id of a piece within a translation"),
        ({"pieces": {-1: 5}}, "pieces: -1 is no position"),
        ({"attention": {-1: 0}}, "attention: -1 is no position"),
        ({"attention": {0: 99}}, "attention: source position 99 at position 0; there are 0 to"),
        ({"attention": {0: [1.0]}}, "attention: the weights at position 0 have the shape (1,)"),
        ({"attention": {0: "x"}}, "attention: the weights at position 0 must be numbers"),
        ({"attention": {0: "nan"}}, "attention: the weights at position 0 must be finite and not negative"),
        ({"attention": {0: "heads"}}, "attention: the weights at position 0 have the shape (2, "),
        ({"attention": {0: "hypotheses"}}, "attention: the weights at position 0 are of 7 hypotheses, and there are 1"),
    ],
)
def test_wrong_arguments(models: Mapping[str, TrainedModel], arguments: dict[str, Any], message: str) -> None:
    size = len(models["bahdanau"].tokenizers.source.encode([LINE])[0]) + 1
    arrays = {"nan": np.full(size, np.nan), "heads": np.ones((2, size)), "hypotheses": np.ones((7, 1, size))}
    arguments = {"line": LINE, **arguments}
    given = arguments.get("attention", {}).get(0)
    if isinstance(given, str) and given in arrays:
        arguments["attention"] = {0: arrays[given]}
    with pytest.raises(ConfigError) as caught:
        list(nmt.TextTranslator([models["bahdanau"]], CPU).steps(**arguments))
    assert caught.value.problems[0].startswith(message)


def test_internals_are_those_of_one_model(models: Mapping[str, TrainedModel]) -> None:
    with pytest.raises(ConfigError, match=r"^internals: are those of one model"):
        steps_of(models["bahdanau"], models["luong"], internals=True)


def test_a_search_that_needs_attention_says_so(models: Mapping[str, TrainedModel]) -> None:
    with pytest.raises(ConfigError, match=r"^coverage_penalty: the model has no attention"):
        steps_of(models["none"], coverage_penalty=0.5)
    assert SearchConfig().coverage_penalty == 0.0
