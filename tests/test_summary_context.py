"""The sentences before as one vector: its equations, its equalities, and where it says nothing."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from nmt.config import schema
from nmt.data.batching import PreviousSentences
from nmt.errors import ConfigError
from nmt.kernels.select import Kernels, UnsupportedReasons, choose_kernels
from nmt.model.attention import SCORES
from nmt.model.context import Sentences
from nmt.model.context.summary import SummaryContext, SummaryOptions
from nmt.model.translator import (
    EncodedContext,
    SentenceStates,
    Translator,
    TranslatorInContext,
    encode_states,
    forced_readout,
)
from nmt.tasks.components import read_config
from nmt.training.objectives import TranslationObjective
from tests.support.document_contexts import DOCUMENTS, SOURCES, batch_of, in_turn, networks, readouts
from tests.support.networks import REFERENCE, VOCABULARY, model_options, network, with_steps
from tests.support.reference_steps import ReferenceKernels

WHERE = ("start", "gates", "both")
everywhere = pytest.mark.parametrize("where", WHERE)
BEFORE = {0: [], 1: [0], 2: [0, 1], 3: [], 4: [], 5: [4], 6: [4, 5], 7: [5, 6], 8: [], 9: [8]}
"""The two rows before each row of the documents, in the order in which they are read."""


def translator(
    network_options: dict[str, Any] | None = None, seed: int = 0, kernels: Kernels = REFERENCE, **options: Any
) -> Translator:
    """Whose summary says something from the beginning."""
    for level in ("word", "sentence"):
        options[level] = SCORES[options.get(level, "additive")].options()
    context = SummaryOptions(**{"past": 2, "hidden_size": 4, **options})
    model = model_options(**(network_options or {})).model_copy(update={"context": context})
    found = network(model, seed, kernels=kernels)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in found.context.parameters():
            parameter.uniform_(-0.7, 0.7, generator=generator)
    return found


# The equations


def weights_of(score: Any, memory: Tensor) -> Tensor:
    """softmax(tanh(W h + b) u) over the rows of a memory (Yang 2016, eq. 5 and 6)."""
    hidden = torch.tanh(memory @ score.memory.weight.t() + score.memory.bias)
    return torch.softmax(hidden @ score.energy.weight[0], 0)


def test_the_summary_written_out_once_more() -> None:
    """Words of each sentence before, then these sentences, the oldest first, one sentence at a time."""
    model = translator()
    context = model.context
    assert isinstance(context, SummaryContext)
    assert context.document_context is not None
    batch = batch_of(list(range(10)), context.document_context)
    with torch.no_grad():
        encoded, weights = context.add_source_context(
            model.encode(batch.source_BS, batch.source_lengths_B), batch.context.sources, None
        )
        assert weights is not None
        words = iter(weights.words_NQS)
        sentences = dict(zip(weights.previous.sentence_L.tolist(), weights.sentences_LQP, strict=True))
        assert sorted(sentences) == [row for row, before in BEFORE.items() if before]
        for row, before in BEFORE.items():
            expected = torch.zeros(8, dtype=torch.float64)
            if before:
                memories = [encoded.memory_BSC[each, : SOURCES[each]] for each in before]
                own = [weights_of(context.words.score, memory) for memory in memories]
                said = [word @ memory for word, memory in zip(own, memories, strict=True)]
                annotations, _ = context.sentences.stack(torch.stack(said).unsqueeze(0))
                above = weights_of(context.sentences.attention.score, annotations.squeeze(0))
                expected = above @ annotations.squeeze(0)
                # The nearest sentence is first in the weights.
                for expected_S, given_QS in zip(own[::-1], words, strict=False):
                    torch.testing.assert_close(given_QS[0, : len(expected_S)], expected_S, rtol=0, atol=1e-12)
                    assert given_QS[0, len(expected_S) :].abs().sum() == 0
                torch.testing.assert_close(sentences[row][0, : len(above)], above.flip(0), rtol=0, atol=1e-12)
            torch.testing.assert_close(encoded.summary.vector_BD[row], expected, rtol=0, atol=1e-12)
        assert next(words, None) is None


def test_the_start_and_a_step_by_hand() -> None:
    """s_0 = tanh(W e + b + W_D D) and what the cell sees, x + C (sigmoid(U s + V x) * D)."""
    model = translator()
    context, wiring = model.context, model.decoder.wiring
    batch = batch_of([0, 1], context.document_context)
    with torch.no_grad():
        encoded, _ = context.add_source_context(
            model.encode(batch.source_BS, batch.source_lengths_B), batch.context.sources, None
        )
        summary = encoded.summary
        alone = model.start(model.encode(batch.source_BS, batch.source_lengths_B)).recurrent[0][1, 0]
        told = model.start(encoded).recurrent[0][1, 0]
        expected = torch.tanh(torch.atanh(alone) + context.first.weight @ summary.vector_BD[1])
        torch.testing.assert_close(told, expected, rtol=0, atol=1e-12)
        x, s = (
            torch.randn(2, 1, wiring.stack.cells[0].projected_size).double(),
            torch.randn(2, 1, model.decoder.wiring.stack.cells[0].hidden_size).double(),
        )
        entered = summary.enter(x, s)[1, 0]
        gate = torch.sigmoid(context.gate_state.weight @ s[1, 0] + context.gate_input.weight @ x[1, 0])
        expected = x[1, 0] + context.enter.weight @ (gate * summary.vector_BD[1])
        torch.testing.assert_close(entered, expected, rtol=0, atol=1e-12)
        assert torch.equal(summary.enter(x, s)[0], x[0])


# Where it says nothing


@everywhere
@pytest.mark.parametrize("bridge", ["final", "zero"])
def test_the_first_sentence_of_a_document_passes_unchanged(where: str, bridge: str) -> None:
    """To the bit, though others in the batch have something before them."""
    model = translator({"bridge": bridge}, where=where)
    batch = batch_of(list(range(10)), model.context.document_context)
    with torch.no_grad():
        found = forced_readout(model, batch).readout_BTR
        alone, _ = model.readout(model.encode(batch.source_BS, batch.source_lengths_B), batch.target_BT)
    for row, before in BEFORE.items():
        assert torch.equal(found[row], alone[row]) == (not before)


@everywhere
def test_training_begins_at_the_translator_without_context(where: str) -> None:
    context = SummaryOptions(
        past=2, where=where, word=SCORES["additive"].options(), sentence=SCORES["additive"].options()
    )
    model = Translator(model_options().model_copy(update={"context": context}), VOCABULARY, REFERENCE).double()
    batch = batch_of(list(range(10)), model.context.document_context)
    with torch.no_grad():
        found = forced_readout(model, batch).readout_BTR
        alone, _ = model.readout(model.encode(batch.source_BS, batch.source_lengths_B), batch.target_BT)
    assert torch.equal(found, alone)


# Batches


@everywhere
def test_a_pair_does_not_depend_on_what_else_is_in_the_batch(where: str) -> None:
    model = translator(where=where)
    document_context = model.context.document_context
    with torch.no_grad():
        batch = batch_of(list(range(10)), document_context)
        together = readouts(forced_readout(model, batch), batch)
        for parts in ([[row] for row in range(10)], [[0, 1, 4], [2, 3], [5, 6, 7], [9, 8]], [[9, 2, 7, 5]]):
            for rows in parts:
                part = batch_of(rows, document_context)
                for row, found in zip(rows, readouts(forced_readout(model, part), part), strict=True):
                    torch.testing.assert_close(found, together[row], rtol=0, atol=1e-12)


@pytest.mark.parametrize("score", ["additive", "dot", "location", "mean"])
def test_padding_weighs_exactly_nothing(score: str) -> None:
    """More of it, or other ids in it, changes no bit."""
    model = translator(word=score, sentence=score)
    document_context = model.context.document_context
    with torch.no_grad():
        batch = batch_of(list(range(10)), document_context, padding=3)
        found = forced_readout(model, batch)
        other = forced_readout(model, batch_of(list(range(10)), document_context, padding=3, seed=7))
        tight = batch_of(list(range(10)), document_context)
        unpadded = forced_readout(model, tight)
    for one, same, near in zip(readouts(found, batch), readouts(other, batch), readouts(unpadded, tight), strict=True):
        assert torch.equal(one, same)
        torch.testing.assert_close(one, near, rtol=0, atol=1e-12)


# Training and translation say the same


@everywhere
@networks
def test_steps_in_turn_give_what_training_sees(where: str, options: dict[str, Any]) -> None:
    model = translator(options, where=where)
    document_context = model.context.document_context
    bounds = np.cumsum([0, *DOCUMENTS]).tolist()
    documents = [list(range(*bound)) for bound in itertools.pairwise(bounds)]
    with torch.no_grad():
        stepped = in_turn(model, documents, document_context)
        batch = batch_of(list(range(10)), document_context)
        found = forced_readout(model, batch)
        scanned = [model.projection(readout) for readout in readouts(found, batch)]
        alone, _ = model.readout(model.encode(batch.source_BS, batch.source_lengths_B), batch.target_BT)
        for row in range(10):
            torch.testing.assert_close(stepped[row], scanned[row], rtol=0, atol=1e-10)
            if BEFORE[row]:
                assert (found.readout_BTR[row] - alone[row]).abs().max() > 1e-4


def test_selected_states_know_their_own_past() -> None:
    """Sentences that leave, hypotheses that change places: the summary of each sentence goes with it."""
    model = translator()
    document_context = model.context.document_context
    with torch.no_grad():
        whole_batch = batch_of(list(range(10)), document_context)
        whole = readouts(forced_readout(model, whole_batch), whole_batch)
        known = [encode_states(model, batch_of([row], None), None).sources for row in (0, 1, 0, 5, 4)]
        past = PreviousSentences.of(np.array([[0, -1], [1, 2], [-1, -1], [3, 4]]))
        wrapped = TranslatorInContext(model, EncodedContext(past, SentenceStates(Sentences.join(known), None)))
        now = batch_of([1, 2, 3, 6], None)
        state = wrapped.start(wrapped.encode(now.source_BS, now.source_lengths_B))
        previous_BT = model.previous(now.target_BT)
        state, _ = wrapped.step(state, previous_BT[:, :1])
        state = state.select(torch.tensor([3, 0, 1]), torch.zeros(3, 2, dtype=torch.int64))
        _, logits_BQV = wrapped.step(state, previous_BT[[3, 0, 1], 1:2].expand(-1, 2))
        for number, row in enumerate((6, 1, 2)):
            expected = model.projection(whole[row][1])
            torch.testing.assert_close(logits_BQV[number, 0], expected, rtol=0, atol=1e-10)
            torch.testing.assert_close(logits_BQV[number, 1], expected, rtol=0, atol=1e-10)


# Gradients and kernels


def test_every_weight_of_the_context_learns() -> None:
    """Against central differences, one element of each."""
    model = translator()
    objective = TranslationObjective(model, 0.1)
    batch = batch_of([2, 6, 7, 3], model.context.document_context)
    objective(batch).trained[0].backward()
    for name, parameter in model.context.named_parameters():
        place = int(parameter.grad.abs().flatten().argmax())
        gradient, flat = float(parameter.grad.flatten()[place]), parameter.data.view(-1)
        losses = []
        for step in (1e-5, -2e-5):
            flat[place] += step
            with torch.no_grad():
                losses.append(float(objective(batch).trained[0]))
        flat[place] += 1e-5
        assert abs(gradient) > 1e-6, name
        assert gradient == pytest.approx((losses[0] - losses[1]) / 2e-5, rel=1e-4, abs=1e-8), name


def test_told_at_the_start_alone_the_recurrence_is_still_differentiated_by_hand() -> None:
    model = translator(where="start")
    assert model.unsupported_reasons() == UnsupportedReasons()
    batch = batch_of(list(range(10)), model.context.document_context)
    gradients = []
    for steps in (None, ReferenceKernels()):
        model.zero_grad()
        found = forced_readout(with_steps(model, steps), batch).readout_BTR
        (found * torch.linspace(0.0, 1.0, found.numel()).view_as(found)).sum().backward()
        gradients.append([parameter.grad.clone() for parameter in model.context.parameters()])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-10)


def test_what_enters_every_step_has_no_fused_form() -> None:
    overrides = ["model.context={kind: summary}", "runtime.kernel=fused"]
    overrides += [f"data.{name}={{source: a, target: b, documents: c}}" for name in ("train", "validation")]
    with pytest.raises(
        ConfigError, match=r"fused cannot be had: model\.context\.where has no native or Triton kernel unless"
    ):
        read_config("configs/quickstart.yaml", overrides)
    read_config("configs/quickstart.yaml", [*overrides, "model.context.where=start"])


def test_a_level_that_looks_at_nothing_is_refused() -> None:
    options = SummaryOptions(word=SCORES["none"].options(), sentence=SCORES["dot"].options())
    assert [path for path, _ in options.conflicts(model_options())] == ["model.context.word"]


def test_dropout_draws_16_bits_an_element() -> None:
    """Of the encoder's output and of the sentences before: not by PyTorch."""
    dropout = schema.DropoutConfig(embedding=0.0, layer=0.3, output=0.0)
    model = translator({"dropout": dropout}, kernels=choose_kernels("auto", torch.device("cpu"))).train()
    batch = batch_of(list(range(10)), model.context.document_context)
    with torch.profiler.profile() as profile:
        forced_readout(model, batch)
    calls = {event.key: event.count for event in profile.key_averages()}
    assert calls["aten::random_"] == 2
    assert not {"aten::bernoulli_", "aten::native_dropout"} & set(calls)
