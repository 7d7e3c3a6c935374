"""Hierarchical attention over the sentences before: its numbers, its equalities, and what it must never do."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from nmt.data.batching import Batch, BatchContext, DocumentContext, PreviousSentences
from nmt.model.attention import SCORES
from nmt.model.context import CONTEXTS, ContextWeights, Sentences
from nmt.model.context.hierarchical import HierarchicalAttention, HierarchicalOptions
from nmt.model.translator import (
    EncodedContext,
    SentenceStates,
    Translator,
    TranslatorInContext,
    encode_states,
    forced_readout,
)
from nmt.training.objectives import TranslationObjective
from tests.support.document_contexts import DOCUMENTS, SOURCES, TARGETS, batch_of, in_turn, networks, readouts
from tests.support.networks import REFERENCE, model_options, network, with_steps
from tests.support.reference_steps import ReferenceKernels

WHERE = ("encoder", "decoder", "both")
everywhere = pytest.mark.parametrize("where", WHERE)


def context_options(**options: Any) -> HierarchicalOptions:
    for level in ("word", "sentence"):
        options[level] = SCORES[options.get(level, "additive")].options()
    return HierarchicalOptions(**{"past": 2, **options})


def translator(network_options: dict[str, Any] | None = None, seed: int = 0, **options: Any) -> Translator:
    model = model_options(**(network_options or {}))
    return network(model.model_copy(update={"context": context_options(**options)}), seed)


# The equations


def attention(size: int, **options: Any) -> HierarchicalAttention:
    module = HierarchicalAttention(context_options(**options), model_options(), size, REFERENCE).double()
    with torch.no_grad():
        generator = torch.Generator().manual_seed(4)
        for parameter in module.parameters():
            parameter.uniform_(-0.7, 0.7, generator=generator)
    return module


def test_both_levels_and_the_gate_by_hand() -> None:
    """One feature, so that a dot product is a product; f_w(h) = h ln 2, f_s(h) = h ln 3, W_h = 1, W_d = ln 2, b = 0.

    The sentence before the second one has the words 0 and 1, the one before that the words 1, 3 and padding.
    h = 1: scores 0 and ln 2, weights 1/3 and 2/3, s_1 = 2/3; scores ln 2 and 3 ln 2, weights 2/10 and 8/10, s_2 = 2.6.
    """
    module = HierarchicalAttention(context_options(word="dot", sentence="dot"), model_options(), 1, REFERENCE).double()
    with torch.no_grad():
        for layer, weight in (
            (module.word_query, math.log(2)),
            (module.sentence_query, math.log(3)),
            (module.gate_state, 1.0),
            (module.gate_context, math.log(2)),
        ):
            layer.weight.fill_(weight)
            if layer.bias is not None:
                layer.bias.zero_()
    words = module.prepare(
        Sentences(
            torch.tensor([[[0.0], [1.0], [9.0]], [[1.0], [3.0], [9.0]]], dtype=torch.float64),
            torch.tensor([[True, True, False]] * 2),
        )
    )
    past = PreviousSentences.of(np.array([[-1, -1], [0, 1]]))
    states = torch.tensor([[[5.0]], [[1.0]]], dtype=torch.float64)
    with torch.no_grad():
        joined, weights = module(states, past, words)
    assert weights.words_NQS.flatten().tolist() == pytest.approx([1 / 3, 2 / 3, 0.0, 0.2, 0.8, 0.0])
    assert weights.words_NQS[:, :, 2].tolist() == [[0.0], [0.0]]
    # exp(ln 3 * 2/3) = 2.0801, exp(ln 3 * 2.6) = 17.3986: weights 0.10679 and 0.89321.
    assert weights.sentences_LQP.flatten().tolist() == pytest.approx([0.10679, 0.89321], abs=1e-5)
    context = 0.10679 * 2 / 3 + 0.89321 * 2.6
    gate = 1 / (1 + math.exp(-1 - math.log(2) * context))
    assert context == pytest.approx(2.39354, abs=1e-5)
    assert gate == pytest.approx(0.93457, abs=1e-5)
    assert float(joined[1]) == pytest.approx(gate * 1.0 + (1 - gate) * context, abs=1e-5)
    assert joined[0].tolist() == [[5.0]]


@pytest.mark.parametrize("feed_forward", [None, 5])
def test_the_equations_written_out_once_more(feed_forward: int | None) -> None:
    """Sentence by sentence and position by position, without a batch."""
    module, size = attention(4, feed_forward=feed_forward), 4
    generator = torch.Generator().manual_seed(1)
    lengths = [3, 5, 2, 4]
    states = torch.randn(4, 5, size, generator=generator, dtype=torch.float64)
    mask = torch.arange(5) < torch.tensor(lengths).unsqueeze(1)
    before = {1: [0], 2: [1, 0], 3: [2, 1]}
    past = PreviousSentences.of(np.array([[-1, -1], [0, -1], [1, 0], [2, 1]]))
    found, _ = module(states, past, module.prepare(Sentences(states, mask)))

    def additive(score: Any, query: Tensor, memory: Tensor) -> Tensor:
        hidden = torch.tanh(score.query(query) + score.memory(memory))
        return torch.softmax((hidden @ score.energy.weight.T).squeeze(1), 0) @ memory

    for row, rows in before.items():
        for position in range(lengths[row]):
            h = states[row, position]
            summaries = torch.stack(
                [additive(module.word.score, module.word_query(h), states[each, : lengths[each]]) for each in rows]
            )
            d = additive(module.sentence.score, module.sentence_query(h), summaries)
            if feed_forward is not None:
                inner, _, outer = module.feed_forward
                d = outer(inner(d).clamp(min=0))
            gate = torch.sigmoid(module.gate_state(h) + module.gate_context.weight @ d)
            torch.testing.assert_close(found[row, position], gate * h + (1 - gate) * d, rtol=0, atol=1e-12)


# Sentences without context


@everywhere
def test_first_sentences_pass_through_exactly(where: str) -> None:
    model = translator(where=where)
    batch = batch_of(list(range(10)), model.context.document_context)
    with torch.no_grad():
        found = forced_readout(model, batch).readout_BTR
        alone, _ = model.readout(model.encode(batch.source_BS, batch.source_lengths_B), batch.target_BT)
    first = np.cumsum([0, *DOCUMENTS[:-1]])
    same = [torch.equal(found[row], alone[row]) for row in range(10)]
    assert [row for row in range(10) if same[row]] == first.tolist()
    assert min(float((found - alone)[row].abs().max()) for row in range(10) if row not in first) > 1e-3


@everywhere
def test_documents_of_one_sentence_are_translated_as_without_context(where: str) -> None:
    model = translator(where=where)
    batch = batch_of([0, 3, 4, 8], model.context.document_context)
    assert batch.context is not None
    with torch.no_grad():
        found = forced_readout(model, batch)
        alone, _ = model.readout(model.encode(batch.source_BS, batch.source_lengths_B), batch.target_BT)
    assert torch.equal(found.readout_BTR, alone)
    assert (found.source_context, found.target_context) == (None, None)


def test_a_model_without_context_has_no_weights_for_it_and_wants_nothing() -> None:
    model = network(model_options())
    assert model.context.document_context is None
    assert list(model.context.parameters()) == []
    batch = batch_of([0, 1], None)
    with torch.no_grad():
        found = forced_readout(model, batch).readout_BTR
        alone, _ = model.readout(model.encode(batch.source_BS, batch.source_lengths_B), batch.target_BT)
    assert torch.equal(found, alone)


# Batches


@everywhere
@pytest.mark.parametrize("heads", [1, 2])
def test_a_pair_does_not_depend_on_what_else_is_in_the_batch(where: str, heads: int) -> None:
    """All documents at once, each pair alone, and every split of the documents into stretches."""
    model = translator(where=where, heads=heads)
    document_context = model.context.document_context
    with torch.no_grad():
        batch = batch_of(list(range(10)), document_context)
        together = readouts(forced_readout(model, batch), batch)
        for parts in ([[row] for row in range(10)], [[0, 1, 4], [2, 3], [5, 6, 7], [9, 8]], [[9, 2, 7, 5]]):
            for rows in parts:
                part = batch_of(rows, document_context)
                for row, found in zip(rows, readouts(forced_readout(model, part), part), strict=True):
                    torch.testing.assert_close(found, together[row], rtol=0, atol=1e-12)


@everywhere
def test_padding_weighs_exactly_nothing(where: str) -> None:
    """More of it, or other ids in it, changes no bit; weights on it, and on sentences that are not there, are 0."""
    model = translator(where=where)
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
    for weights, lengths in ((found.source_context, SOURCES), (found.target_context, TARGETS)):
        if weights is None:
            continue
        for pair, row in enumerate(weights.previous.row_N.tolist()):
            assert torch.equal(
                weights.words_NQS[pair, :, lengths[row] :], torch.zeros_like(weights.words_NQS[pair, :, lengths[row] :])
            )
        torch.testing.assert_close(weights.words_NQS.sum(2), torch.ones_like(weights.words_NQS[:, :, 0]))
        absent = ~weights.previous.present_LP.unsqueeze(1).expand_as(weights.sentences_LQP)
        assert weights.sentences_LQP[absent].abs().sum() == 0
        assert absent.any()
        torch.testing.assert_close(weights.sentences_LQP.sum(2), torch.ones_like(weights.sentences_LQP[:, :, 0]))


def test_the_memory_is_zero_at_padding() -> None:
    model = translator(where="encoder")
    batch = batch_of(list(range(10)), model.context.document_context, padding=2)
    encoded = model.encode(batch.source_BS, batch.source_lengths_B)
    joined, _ = model.context.add_source_context(encoded, batch.context.sources, None)
    assert joined.memory_BSC[~joined.mask_BS].abs().sum() == 0
    assert joined.final_LBF == encoded.final_LBF


# Training and translation say the same


@everywhere
@networks
def test_steps_in_turn_give_what_training_sees(where: str, options: dict[str, Any]) -> None:
    """The translations of whole documents, forced: the states of earlier sentences come from earlier steps."""
    model = translator(options, where=where)
    document_context = model.context.document_context
    bounds = np.cumsum([0, *DOCUMENTS]).tolist()
    documents = [list(range(*bound)) for bound in itertools.pairwise(bounds)]
    with torch.no_grad():
        stepped = in_turn(model, documents, document_context)
        batch = batch_of(list(range(10)), document_context)
        scanned = [model.projection(readout) for readout in readouts(forced_readout(model, batch), batch)]
        for row in range(10):
            torch.testing.assert_close(stepped[row], scanned[row], rtol=0, atol=1e-10)


@pytest.mark.parametrize("score", ["additive", "general", "scaled_dot", "concat", "cosine", "dot", "location"])
@pytest.mark.parametrize("heads", [1, 5])
def test_any_score_stands_on_both_levels(score: str, heads: int) -> None:
    model = translator(where="both", word=score, sentence=score, heads=heads)
    document_context = model.context.document_context
    with torch.no_grad():
        batch = batch_of([0, 1, 2], document_context)
        stepped = in_turn(model, [[0, 1, 2]], document_context)
        for row, readout in enumerate(readouts(forced_readout(model, batch), batch)):
            torch.testing.assert_close(stepped[row], model.projection(readout), rtol=0, atol=1e-10)


@pytest.mark.parametrize("where", ["decoder", "both"])
def test_selected_states_know_their_own_past(where: str) -> None:
    """Sentences that leave, hypotheses that change places: of each sentence the past goes with it."""
    model = translator(where=where)
    document_context = model.context.document_context
    with torch.no_grad():
        batch = batch_of([1, 2, 3, 6], document_context)
        whole = forced_readout(model, batch)
        known = {row: encode_states(model, batch_of([row], None), None) for row in (0, 4)}
        known[1] = encode_states(
            model, batch_of([1], None), EncodedContext(PreviousSentences.of(np.array([[0, -1]])), known[0])
        )
        known[5] = encode_states(
            model, batch_of([5], None), EncodedContext(PreviousSentences.of(np.array([[0, -1]])), known[4])
        )
        order = [known[row] for row in (0, 1, 0, 5, 4)]
        remembered = SentenceStates(
            Sentences.join([each.sources for each in order]) if document_context.sources else None,
            Sentences.join([each.targets for each in order]),
        )
        past = PreviousSentences.of(np.array([[0, -1], [1, 2], [-1, -1], [3, 4]]))
        wrapped = TranslatorInContext(model, EncodedContext(past, remembered))
        now = batch_of([1, 2, 3, 6], None)
        state = wrapped.start(wrapped.encode(now.source_BS, now.source_lengths_B))
        previous_BT = model.previous(now.target_BT)
        state, logits_BQV = wrapped.step(state, previous_BT[:, :1])
        alone, _ = model.readout(model.encode(now.source_BS, now.source_lengths_B), now.target_BT)
        # The product of one row may be rounded otherwise than that of four.
        torch.testing.assert_close(logits_BQV[2], model.projection(alone[2, :1]), rtol=0.0, atol=1e-14)
        # Row 2, whose document begins, leaves; each of the others has two hypotheses now.
        state = state.select(torch.tensor([3, 0, 1]), torch.zeros(3, 2, dtype=torch.int64))
        _, logits_BQV = wrapped.step(state, previous_BT[[3, 0, 1], 1:2].expand(-1, 2))
        expected = model.projection(whole.readout_BTR[[3, 0, 1], 1:2])
        torch.testing.assert_close(logits_BQV, expected.expand(-1, 2, -1), rtol=0, atol=1e-10)


# Gradients


@everywhere
def test_every_parameter_gets_a_gradient(where: str) -> None:
    model = translator(where=where, feed_forward=6, heads=2)
    batch = batch_of(list(range(10)), model.context.document_context)
    losses = TranslationObjective(model, 0.1)(batch)
    losses.trained[0].backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert without == []


@everywhere
@pytest.mark.parametrize("feed_forward", [None, 3])
def test_gradients_by_finite_differences(where: str, feed_forward: int | None) -> None:
    """In float64, for some elements of every parameter, through sentences that are pairs and others that are not."""
    model = translator(where=where, feed_forward=feed_forward, seed=3)
    batch = batch_of([1, 2, 5, 6], model.context.document_context)
    objective = TranslationObjective(model, 0.1)
    objective(batch).trained[0].backward()
    step = 1e-6
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        flat, gradient = parameter.data.view(-1), parameter.grad.view(-1)
        for index in torch.randint(len(flat), (3,), generator=generator).tolist():
            kept, values = float(flat[index]), []
            for moved in (kept + step, kept - step):
                flat[index] = moved
                with torch.no_grad():
                    values.append(float(objective(batch).trained[0]))
            flat[index] = kept
            numeric = (values[0] - values[1]) / (2 * step)
            assert float(gradient[index]) == pytest.approx(numeric, rel=1e-5, abs=1e-7), name


@everywhere
@pytest.mark.parametrize("backpropagate", [True, False])
def test_gradients_flow_into_the_sentences_before_unless_they_are_stopped(where: str, backpropagate: bool) -> None:
    """The embedding of a piece that only a sentence before has gets a gradient of the loss of the second, or none."""
    model = translator(where=where, backpropagate=backpropagate)
    batch = batch_of([1], model.context.document_context)
    source_BS, target_BT = torch.full_like(batch.source_BS, 5), torch.full_like(batch.target_BT, 5)
    source_BS[1:], target_BT[1:] = 7, 7
    changed = Batch(
        source_BS, batch.source_lengths_B, target_BT, batch.target_lengths_B, batch.rows, 1, context=batch.context
    )
    TranslationObjective(model, 0.0)(changed).trained[0].backward()
    reached = {
        "source": float(model.encoder.embedding.table.weight.grad[7].abs().max()),
        # As an output, not as an input: the table is tied, but no pair has the piece as its target.
        "recurrence": float(
            model.context.get_parameter(f"{'encoder' if where != 'decoder' else 'decoder'}.word.score.memory.weight")
            .grad.abs()
            .max()
        ),
    }
    assert (reached["source"] > 0) == backpropagate
    assert reached["recurrence"] > 0


def test_the_context_is_what_the_loss_of_a_pair_depends_on() -> None:
    """Of the sentences before alone, as far as the model looks back and not further."""
    model = translator(where="both")
    document_context = model.context.document_context

    def likelihood(changed: int | None, side: str) -> float:
        batch = batch_of(list(range(4, 8)), document_context)
        ids = batch.source_BS if side == "source" else batch.target_BT
        if changed is not None:
            ids[changed, 0] = 4 + (int(ids[changed, 0]) - 3) % 5
        with torch.no_grad():
            readout_TR = forced_readout(model, batch).readout_BTR[3, : TARGETS[7]]
            logits = torch.log_softmax(model.projection(readout_TR), -1)
            return float(logits.gather(1, batch.target_BT[3, : TARGETS[7], None]).sum())

    straight = likelihood(None, "source")
    # Rows 0 to 3 of the batch are a document; the last looks back to two translations, and these to two sources.
    assert [likelihood(row, "source") != straight for row in range(4)] == [True, True, True, True]
    assert [likelihood(row, "target") != straight for row in range(4)] == [False, True, True, True]


# Kernels and formats


@everywhere
def test_steps_differentiated_by_hand_give_the_same(where: str) -> None:
    model = translator(where=where)
    batch = batch_of(list(range(10)), model.context.document_context)
    gradients = []
    for steps in (None, ReferenceKernels()):
        model.zero_grad()
        found = readouts(forced_readout(with_steps(model, steps), batch), batch)
        torch.cat([each.flatten() for each in found]).logsumexp(0).backward()
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-8, atol=1e-12, msg=name)


@everywhere
def test_shorter_formats_give_nearly_the_same(where: str) -> None:
    model = translator(where=where).float()
    batch = batch_of(list(range(10)), model.context.document_context)
    with torch.no_grad():
        exact = forced_readout(model, batch).readout_BTR
        with torch.autocast("cpu", torch.bfloat16):
            short = forced_readout(model, batch).readout_BTR
    torch.testing.assert_close(short.float(), exact, rtol=0, atol=0.05)


# Options


def test_what_looks_back_is_what_the_option_says() -> None:
    assert context_options(where="encoder").document_context == DocumentContext(2, True, False)
    assert context_options(where="decoder").document_context == DocumentContext(2, False, True)
    assert context_options(where="both").document_context == DocumentContext(2, True, True)
    assert CONTEXTS["none"].options().document_context is None
    assert DocumentContext(3, True, True).reach == 6


def test_options_that_do_not_go_with_the_network_are_refused() -> None:
    model = model_options(sizes=(6, 5, 9))

    def conflicts(**options: Any) -> list[str]:
        return [f"{path} {problem}" for path, problem in context_options(**options).conflicts(model)]

    assert conflicts() == []
    assert conflicts(where="encoder", heads=5) == []
    assert conflicts(where="both", heads=5) == [
        "model.context.heads is 5, but must divide model.decoder.hidden_size (9)"
    ]
    assert conflicts(where="both", heads=3) == [
        "model.context.heads is 3, but must divide the size of the encoder's annotations (10)"
    ]
    assert conflicts(word="none") == [
        "model.context.word is none, which has no attention weights; choose another score"
    ]


def test_sentences_join_with_padding() -> None:
    parts = [
        Sentences(torch.ones(1, 2, 3), torch.tensor([[True, True]])),
        Sentences(2 * torch.ones(2, 1, 3), torch.tensor([[True], [True]])),
    ]
    joined = Sentences.join(parts)
    assert joined.states_MSC[:, :, 0].tolist() == [[1.0, 1.0], [2.0, 0.0], [2.0, 0.0]]
    assert joined.mask_MS.tolist() == [[True, True], [True, False], [True, False]]


def test_weights_say_where_each_position_looked() -> None:
    """With a score of words that only the first piece of a sentence matches."""
    model = translator(where="encoder", word="dot")
    batch = batch_of([0, 1, 2], model.context.document_context)
    with torch.no_grad():
        weights = forced_readout(model, batch).source_context
    assert isinstance(weights, ContextWeights)
    assert weights.words_NQS.shape == (3, 6, 6)
    assert weights.sentences_LQP.shape == (2, 6, 2)
    assert weights.sentences_LQP[0, :, 0].tolist() == [1.0] * 6


def test_batch_past_follows_to_a_device() -> None:
    past = BatchContext(1, np.arange(2), PreviousSentences.of(np.array([[-1], [0]])), None).to(torch.device("meta"))
    assert past.sources is not None
    assert past.sources.row_N.device.type == "meta"
