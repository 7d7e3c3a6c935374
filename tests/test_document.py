"""The hierarchical encoder: the paper's equations, documents of any shape, and what attention has weight on.

Shapes: B documents, N sentences of all documents, W words of all sentences, C features, K labels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from nmt.config import schema
from nmt.data.batching import documents_batch
from nmt.errors import ConfigError
from nmt.kernels.gru.native import gru_layer
from nmt.kernels.packed import PackedGru, Packing, row_softmax, row_sum
from nmt.kernels.select import Kernels, UnsupportedReasons, choose_kernels
from nmt.model.attention import SCORES
from nmt.model.attention.base import Coverage, Encoded
from nmt.model.attention.normalizers import Normalizer, SoftmaxOptions
from nmt.model.attention.soft import SoftAttention
from nmt.model.attention.windows import GlobalWindow, GlobalWindowOptions
from nmt.model.cells import CELLS
from nmt.model.classifier import DocumentClassifier, EncodedDocuments, Pooling
from nmt.training.objectives import ClassificationObjective
from tests.support.kernel_params import GRUS
from tests.support.networks import REFERENCE, with_gru

LOOKING = [kind for kind, entry in SCORES.items() if entry.options().has_weights]
NO_DROPOUT = schema.DocumentDropoutConfig(embedding=0.0, word=0.0, layer=0.0, output=0.0)
VOCABULARY = 23
Document = Sequence[Sequence[int]]


def level(score: str = "additive", cell: str = "gru", hidden_size: int = 3, **options: Any) -> schema.LevelConfig:
    return schema.LevelConfig(
        cell=CELLS[cell].options(), hidden_size=hidden_size, score=SCORES[score].options(**options), layers=1
    )


def classifier(
    word: schema.LevelConfig | None = None,
    sentence: schema.LevelConfig | None = None,
    labels: int = 3,
    dropout: schema.DocumentDropoutConfig = NO_DROPOUT,
    kernels: Kernels = REFERENCE,
) -> DocumentClassifier:
    torch.manual_seed(5)
    options = schema.ClassifierConfig(
        embedding_size=4, word=word or level(), sentence=sentence or level(hidden_size=2), dropout=dropout
    )
    return DocumentClassifier(options, VOCABULARY, labels, kernels).double()


def encode(model: DocumentClassifier, *documents: Document) -> EncodedDocuments:
    batch = documents_batch(documents)
    encoded: EncodedDocuments = model.encoder(batch.ids_W, batch.words_N, batch.sentences_B)
    return encoded


def some_document(sentences: Sequence[int], seed: int = 0) -> Document:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(VOCABULARY, (size,), generator=generator).tolist() for size in sentences]


# The paper's equations, in Python's own numbers

Vector = list[float]


def product(matrix: Tensor, vector: Vector) -> Vector:
    return [sum(a * b for a, b in zip(row, vector, strict=True)) for row in matrix.tolist()]


def added(*vectors: Vector) -> Vector:
    return [sum(parts) for parts in zip(*vectors, strict=True)]


def sigmoid(vector: Vector) -> Vector:
    return [1.0 / (1.0 + math.exp(-value)) for value in vector]


def paper_gru(layer: nn.RNNBase, inputs: list[Vector], reverse: bool) -> list[Vector]:
    """Yang 2016, eq. 1-4, one direction. PyTorch has -W_z, -U_z and -b_z for the paper's, because its z is 1 - z."""
    suffix = "_l0_reverse" if reverse else "_l0"
    w, u, b, c = (getattr(layer, name + suffix) for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
    (w_r, w_z, w_h), (u_r, u_z, u_h) = w.chunk(3), u.chunk(3)
    (b_r, b_z, b_h), (c_r, c_z, c_h) = b.chunk(3), c.chunk(3)
    h = [0.0] * layer.hidden_size
    outputs = []
    for x in reversed(inputs) if reverse else inputs:
        r = sigmoid(added(product(w_r, x), product(u_r, h), (b_r + c_r).tolist()))  # eq. 4
        z = sigmoid(added(product(-w_z, x), product(-u_z, h), (-b_z - c_z).tolist()))  # eq. 2
        recurrent = added(product(u_h, h), c_h.tolist())
        candidate = [
            math.tanh(a + gate * part)
            for a, gate, part in zip(added(product(w_h, x), b_h.tolist()), r, recurrent, strict=True)
        ]  # eq. 3
        h = [(1 - gate) * old + gate * new for gate, old, new in zip(z, h, candidate, strict=True)]  # eq. 1
        outputs.append(h)
    return outputs[::-1] if reverse else outputs


def paper_attention(pooling: Pooling, annotations: list[Vector]) -> tuple[Vector, Vector]:
    """Eq. 5-7, or 8-10: u = tanh(W h + b), a = softmax(u' u_w), sum of a h."""
    score: Any = pooling.score
    u_w = score.energy.weight[0].tolist()
    scores = []
    for h in annotations:
        u = [math.tanh(value) for value in added(product(score.memory.weight, h), score.memory.bias.tolist())]
        scores.append(sum(a * b for a, b in zip(u, u_w, strict=True)))
    exponentials = [math.exp(value) for value in scores]
    weights = [value / sum(exponentials) for value in exponentials]
    return [
        sum(a * h[c] for a, h in zip(weights, annotations, strict=True)) for c in range(len(annotations[0]))
    ], weights


def paper_level(stage: Any, inputs: list[Vector]) -> tuple[Vector, Vector]:
    forward, backward = (paper_gru(stage.stack, inputs, reverse) for reverse in (False, True))
    return paper_attention(stage.attention, [left + right for left, right in zip(forward, backward, strict=True)])


def test_the_equations_of_the_paper_in_plain_numbers() -> None:
    """Eq. 1-12 for two documents of one batch, of sentences of unequal length."""
    model = classifier()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.uniform_(-1.0, 1.0)
    documents = [some_document([3, 1, 4]), some_document([2, 5], seed=1)]
    labels = [2, 0]
    batch = documents_batch(documents, labels)
    logits_BK, encoded = model(batch.ids_W, batch.words_N, batch.sentences_B)
    losses, word_weights, sentence_weights = [], [], []
    for row, (document, label) in enumerate(zip(documents, labels, strict=True)):
        vectors = []
        for sentence in document:
            embedded = model.encoder.embedding(torch.tensor(sentence)).tolist()
            vector, weights = paper_level(model.encoder.word, embedded)
            vectors.append(vector)
            word_weights += weights
        v, weights = paper_level(model.encoder.sentence, vectors)
        sentence_weights += weights
        assert encoded.vectors_BC[row].tolist() == pytest.approx(v, rel=1e-12)
        logits = added(product(model.projection.weight, v), model.projection.bias.tolist())
        exponentials = [math.exp(value) for value in logits]
        p = [value / sum(exponentials) for value in exponentials]  # eq. 11
        assert torch.softmax(logits_BK[row], 0).tolist() == pytest.approx(p, rel=1e-12)
        losses.append(-math.log(p[label]))  # eq. 12
    assert encoded.word_weights_W.tolist() == pytest.approx(word_weights, rel=1e-12)
    assert encoded.sentence_weights_N.tolist() == pytest.approx(sentence_weights, rel=1e-12)
    sums = ClassificationObjective(model, 0.0)(batch)
    assert sums.trained[0].item() == pytest.approx(sum(losses), rel=1e-12)
    assert sums.reported().tolist()[0] == pytest.approx(sum(losses), rel=1e-12)


def test_numbers_by_hand() -> None:
    """A GRU without inputs whose z is 1/2 and whose candidate is 0.8: h = 0.4, 0.6, 0.7 from either end.

    u = tanh(h) of the forward half, u_w = 10: scores 3.7995, 5.3705, 6.0437, weights 0.0656, 0.3156, 0.6188, and
    s = (0.0656 * 0.4 + 0.3156 * 0.6 + 0.6188 * 0.7, 0.0656 * 0.7 + 0.3156 * 0.6 + 0.6188 * 0.4).
    """
    model = classifier(level(hidden_size=1), level("mean", hidden_size=1))
    with torch.no_grad():
        for parameter in model.encoder.parameters():
            parameter.zero_()
        for stage in (model.encoder.word, model.encoder.sentence):
            for suffix in ("", "_reverse"):
                getattr(stage.stack, f"bias_ih_l0{suffix}")[2] = math.atanh(0.8)
        score: Any = model.encoder.word.attention.score
        score.memory.weight[0, 0] = 1.0
        score.energy.weight[0, 0] = 10.0
    encoded = encode(model, [[1, 2, 3], [4]])
    assert encoded.word_weights_W.tolist() == pytest.approx([0.0656, 0.3156, 0.6188, 1.0], abs=5e-5)
    batch = documents_batch([[[1, 2, 3], [4]]])
    packing = Packing.of(batch.words_N, torch.device("cpu"))
    sentences_NC, _ = model.encoder.word(model.encoder.embedding(batch.ids_W[packing.element_P]), packing)
    assert sentences_NC.tolist() == [
        pytest.approx([0.6488, 0.4828], abs=5e-5),
        pytest.approx([0.4, 0.4], abs=1e-12),
    ]
    # The average of two sentences: (0.4 + 0.6) / 2 from either end, whatever the sentences are.
    assert encoded.sentence_weights_N.tolist() == [0.5, 0.5]
    assert encoded.vectors_BC.tolist() == [pytest.approx([0.5, 0.5], abs=1e-12)]


# Any shape


SHAPES = [[3, 1, 4], [1], [0, 2, 0, 5, 0], [7] * 4, [2, 2, 0], [12, 1, 1, 1, 1, 1]]


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("score", LOOKING)
def test_a_batch_is_its_documents_alone(score: str, cell: str) -> None:
    model = classifier(level(score, cell), level(score, cell))
    documents = [some_document(shape, seed) for seed, shape in enumerate(SHAPES)]
    together = encode(model, *documents)
    words = sentences = 0
    for row, document in enumerate(documents):
        alone = encode(model, document)
        count, size = len(document), sum(map(len, document))
        torch.testing.assert_close(together.vectors_BC[row], alone.vectors_BC[0], rtol=0, atol=1e-12)
        found = (
            together.word_weights_W[words : words + size],
            together.sentence_weights_N[sentences : sentences + count],
        )
        torch.testing.assert_close(found[0], alone.word_weights_W, rtol=0, atol=1e-12)
        torch.testing.assert_close(found[1], alone.sentence_weights_N, rtol=0, atol=1e-12)
        words, sentences = words + size, sentences + count


@pytest.mark.parametrize("score", LOOKING)
def test_weights_add_up_over_what_they_are_weights_of(score: str) -> None:
    """Each sentence's over its own words, each document's over its own sentences: nothing else has any."""
    model = classifier(level(score), level(score))
    documents = [some_document(shape, seed) for seed, shape in enumerate(SHAPES)]
    encoded = encode(model, *documents)
    words = iter(encoded.word_weights_W.tolist())
    sentences = iter(encoded.sentence_weights_N.tolist())
    for document in documents:
        assert sum(next(sentences) for _ in document) == pytest.approx(1.0, abs=1e-12)
        for sentence in document:
            assert sum(next(words) for _ in sentence) == pytest.approx(1.0 if sentence else 0.0, abs=1e-12)
    assert next(words, None) is next(sentences, None) is None


def test_an_empty_sentence_weighs_exactly_nothing_and_changes_nothing() -> None:
    model = classifier()
    document = some_document([3, 4, 2])
    plain, holes = encode(model, document), encode(model, [[], document[0], [], [], *document[1:], []])
    assert torch.equal(plain.vectors_BC, holes.vectors_BC)
    assert torch.equal(plain.word_weights_W, holes.word_weights_W)
    assert holes.sentence_weights_N[[0, 2, 3, 6]].tolist() == [0.0] * 4
    assert torch.equal(plain.sentence_weights_N, holes.sentence_weights_N[[1, 4, 5]])


def test_documents_without_a_word_are_zero() -> None:
    model = classifier()
    document = some_document([2, 3])
    encoded = encode(model, [[]], document, [[], []], [])
    assert encoded.vectors_BC[[0, 2, 3]].abs().sum() == 0.0
    assert torch.equal(encoded.vectors_BC[1], encode(model, document).vectors_BC[0])
    nothing = encode(model, [[]], [[], []])
    assert nothing.vectors_BC.tolist() == [[0.0] * 4] * 2
    assert nothing.sentence_weights_N.tolist() == [0.0] * 3


def test_one_sentence_and_five_hundred() -> None:
    model = classifier()
    one = encode(model, some_document([4]))
    assert one.sentence_weights_N.tolist() == [1.0]
    many = encode(model, some_document([1 + place % 7 for place in range(500)]), some_document([1]))
    assert many.sentence_weights_N.shape == (501,)
    assert many.sentence_weights_N[:500].sum().item() == pytest.approx(1.0)
    assert torch.isfinite(many.vectors_BC).all()


def test_scores_of_any_size_do_not_overflow() -> None:
    packing = Packing.of(torch.tensor([2, 0, 3]), torch.device("cpu"))
    scores_P = torch.tensor([1000.0, -1000.0, 1000.0, -torch.inf, -1000.0])
    assert packing.row_P.tolist() == [2, 0, 2, 0, 2]
    weights_P = row_softmax(scores_P, packing.row_P, packing.rows)
    assert weights_P.tolist() == [0.5, 1.0, 0.5, 0.0, 0.0]
    assert row_sum(weights_P, packing.row_P, packing.rows).tolist() == [1.0, 0.0, 1.0]


def test_the_order_of_packing_is_that_of_the_library() -> None:
    lengths = torch.tensor([3, 0, 5, 1, 5])
    rows = [torch.arange(100 * row, 100 * row + int(size)) for row, size in enumerate(lengths)]
    packing = Packing.of(lengths, torch.device("cpu"))
    ordered = sorted((row for row in rows if len(row)), key=len, reverse=True)
    library = nn.utils.rnn.pack_sequence(ordered)
    assert torch.equal(torch.cat(rows)[packing.element_P], library.data)
    assert torch.equal(packing.sizes_T, library.batch_sizes)
    assert torch.equal(packing.row_P, library.data // 100)
    assert torch.equal(packing.position_P, library.data % 100)


# The family


@pytest.mark.parametrize("score", LOOKING)
def test_it_is_the_attention_of_translation_with_a_query_of_its_own(score: str) -> None:
    """The same score, in the window over the whole of padded sentences."""
    torch.manual_seed(1)
    pooling = Pooling(SCORES[score].options(), 6, REFERENCE).double()
    lengths = torch.tensor([4, 1, 3])
    packing = Packing.of(lengths, torch.device("cpu"))
    memory_BSC = torch.randn(3, 4, 6, dtype=torch.float64)
    mask_BS = torch.arange(4) < lengths.unsqueeze(1)
    vectors_NC, weights_P = pooling(memory_BSC[packing.row_P, packing.position_P], packing)
    window, normalizer = GlobalWindow(GlobalWindowOptions(), 6), Normalizer(SoftmaxOptions(), 0.0, REFERENCE)
    soft = SoftAttention(pooling.score, window, Coverage(), normalizer, 6, REFERENCE)
    query = torch.zeros(3, 1, 0, dtype=torch.float64) if pooling.query_H is None else pooling.query_H.expand(3, 1, 6)
    prepared = soft.prepare(Encoded(memory_BSC, mask_BS, ()))
    look = soft(query, prepared, (), 0)
    assert look.weights is not None
    weights_BS = look.weights.mean().squeeze(1)
    torch.testing.assert_close(vectors_NC, look.context_BQC.squeeze(1), rtol=0, atol=1e-12)
    torch.testing.assert_close(weights_P, weights_BS[packing.row_P, packing.position_P], rtol=0, atol=1e-12)


def test_a_score_with_a_vector_of_its_own_learns_no_query() -> None:
    """`additive` is the paper's: W_w, b_w and u_w, and nothing else."""
    pooling = Pooling(SCORES["additive"].options(), 6, REFERENCE)
    names = {name: tuple(each.shape) for name, each in pooling.named_parameters()}
    assert names == {"score.memory.weight": (6, 6), "score.memory.bias": (6,), "score.energy.weight": (1, 6)}
    assert [name for name, _ in Pooling(SCORES["dot"].options(), 6, REFERENCE).named_parameters()] == ["query_H"]
    assert not list(Pooling(SCORES["mean"].options(), 6, REFERENCE).parameters())


def test_mean_is_the_average() -> None:
    packing = Packing.of(torch.tensor([2, 3]), torch.device("cpu"))
    memory_PC = torch.tensor([[1.0], [10.0], [2.0], [20.0], [6.0]])
    vectors_NC, weights_P = Pooling(SCORES["mean"].options(), 1, REFERENCE)(memory_PC, packing)
    # The longer row comes first in every step: 1, 2, 6 and 10, 20.
    assert vectors_NC.tolist() == [[15.0], [3.0]]
    assert weights_P.tolist() == pytest.approx([1 / 3, 0.5, 1 / 3, 0.5, 1 / 3])


@pytest.mark.parametrize("score", LOOKING)
def test_gradients_by_finite_differences(score: str) -> None:
    """Of every parameter, through both levels and the loss, in float64."""
    model = classifier(level(score, hidden_size=2), level(score, hidden_size=2))
    batch = documents_batch([some_document([2, 0, 3]), some_document([1, 2], seed=2)], [1, 0])
    objective = ClassificationObjective(model, 0.1)
    scales = (0.5, 0.0)
    objective(batch).loss(scales).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        flat = parameter.data.view(-1)
        for element in {int(parameter.grad.abs().flatten().argmax()), 0, len(flat) - 1}:
            values = []
            for step in (1e-6, -2e-6):
                flat[element] += step
                with torch.no_grad():
                    values.append(float(objective(batch).loss(scales)))
            flat[element] += 1e-6
            slope = (values[0] - values[1]) / 2e-6
            assert float(parameter.grad.view(-1)[element]) == pytest.approx(slope, rel=1e-5, abs=1e-8), name


@pytest.mark.parametrize("score", LOOKING)
def test_every_parameter_gets_a_gradient(score: str) -> None:
    model = classifier(level(score), level(score))
    batch = documents_batch([some_document([4, 6]), some_document([1, 2, 3], seed=2)], [1, 0])
    ClassificationObjective(model, 0.0)(batch).loss((1.0, 0.0)).backward()
    without = [name for name, each in model.named_parameters() if each.grad is None or not each.grad.abs().sum()]
    assert without == []


def test_dropout_is_in_training_alone() -> None:
    model = classifier(dropout=schema.DocumentDropoutConfig(embedding=0.5, word=0.5, layer=0.5, output=0.5))
    batch = documents_batch([some_document([4, 6])])
    one, other = (model.train()(batch.ids_W, batch.words_N, batch.sentences_B)[0] for _ in range(2))
    assert not torch.equal(one, other)
    one, other = (model.eval()(batch.ids_W, batch.words_N, batch.sentences_B)[0] for _ in range(2))
    assert torch.equal(one, other)


def test_dropout_draws_16_bits_an_element() -> None:
    """Of embeddings, between layers of both levels, of the vectors of sentences and documents: not by PyTorch."""
    levels = level().model_copy(update={"layers": 2})
    dropout = schema.DocumentDropoutConfig(embedding=0.3, word=0.0, layer=0.3, output=0.3)
    model = classifier(levels, levels, dropout=dropout, kernels=choose_kernels("auto", torch.device("cpu"))).train()
    batch = documents_batch([some_document([4, 6])])
    with torch.profiler.profile() as profile:
        model(batch.ids_W, batch.words_N, batch.sentences_B)
    calls = {event.key: event.count for event in profile.key_averages()}
    assert calls["aten::random_"] == 5
    assert not {"aten::bernoulli_", "aten::native_dropout"} & set(calls)


@pytest.mark.parametrize("gru", GRUS)
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("bidirectional", [True, False, "first"])
def test_the_kernel_by_hand_is_the_library(bidirectional: Any, layers: int, gru: PackedGru) -> None:
    """Outputs and every gradient."""
    options = level().model_copy(update={"bidirectional": bidirectional, "layers": layers})
    model = classifier(options, options)
    documents = [some_document(shape, seed) for seed, shape in enumerate(SHAPES)]
    found = []
    for run in (None, gru):
        model.zero_grad()
        encoded = encode(with_gru(model, run), *documents)
        factors = torch.arange(encoded.vectors_BC.numel(), dtype=torch.float64).sin().view_as(encoded.vectors_BC)
        (encoded.vectors_BC * factors).sum().backward()
        gradients = [each.grad.clone() for each in model.encoder.parameters() if each.grad is not None]
        found.append([encoded.vectors_BC, encoded.word_weights_W, encoded.sentence_weights_N, *gradients])
    assert len(found[0]) == len(found[1]) == 3 + len(list(model.encoder.parameters()))
    for library, by_hand in zip(*found, strict=True):
        torch.testing.assert_close(by_hand, library, rtol=0, atol=1e-12)


def test_only_a_gru_is_run_by_hand() -> None:
    model = classifier(level(cell="lstm"))
    assert model.encoder.unsupported_reason() == "model.word.cell is not gru"
    document = some_document([3, 2])
    by_library, native = (encode(with_gru(model, gru), document) for gru in (None, gru_layer))
    assert torch.equal(native.word_weights_W, by_library.word_weights_W)
    with pytest.raises(ConfigError, match=r"runtime\.kernel: fused cannot be had: model\.word\.cell is not gru"):
        choose_kernels("fused", torch.device("cpu"), model.unsupported_reasons())
    assert choose_kernels("auto", torch.device("cpu"), UnsupportedReasons("", None)).layers is not REFERENCE.layers
    assert choose_kernels("reference", torch.device("cpu"), UnsupportedReasons("", None)).layers is REFERENCE.layers


def flops(model: DocumentClassifier, *documents: Document, gru: PackedGru | None) -> int:
    batch = documents_batch(documents)
    with FlopCounterMode(display=False) as counter:
        model(batch.ids_W, batch.words_N, batch.sentences_B)[0].sum().backward()
    return int(counter.get_total_flops())


@pytest.mark.parametrize("gru", [pytest.param(None, id="library"), *GRUS])
def test_a_batch_costs_its_words_however_unequal_its_documents_are(gru: PackedGru | None) -> None:
    """480 words: 8 documents of 3 sentences of 20 words, and documents from one word to 40 sentences."""
    model = classifier()
    even = [some_document([20] * 3, seed) for seed in range(8)]
    uneven = [some_document(shape) for shape in ([1], [100, 1, 3], [9] * 40, [1, 0, 1], [2] * 5, [1, 1, 1])]
    assert sum(sum(map(len, document)) for document in uneven) == 480
    assert 0 < flops(model, *uneven, gru=gru) < 1.3 * flops(model, *even, gru=gru)
