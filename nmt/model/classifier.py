"""Document classifier: hierarchical attention over words and sentences (Yang 2016).

    h_it = BiGRU(x_it)            u_it = tanh(W_w h_it + b_w)   a_it = softmax_t(u_it' u_w)   s_i = sum_t a_it h_it
    h_i  = BiGRU(s_i)             u_i  = tanh(W_s h_i  + b_s)   a_i  = softmax_i(u_i'  u_s)   v   = sum_i a_i  h_i

Shapes: B documents, N sentences of all documents, W words of all sentences, P elements in packed order, X features of
what a level reads, E embedding, C features of what a level gives.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nmt.config import schema
from nmt.kernels.packed import Packing, row_softmax, row_sum
from nmt.kernels.select import Kernels, UnsupportedReasons
from nmt.model.attention.base import SCORES, Score, ScoreOptions, View
from nmt.model.encoder import RecurrentLayers
from nmt.model.modules import Embedding, embedding_table, initialize, parameter_counts


class Pooling(nn.Module):
    """a = softmax over a row of score(query, memory);  vector = sum of a memory. One query, learned, for all rows.

    `additive` and `concat` have a learned vector of their own and need no query: `additive` is the paper's softmax of
    u' u_w with u = tanh(W h + b). The other scores get a query that is learned here: `dot` is the paper's equation
    without its hidden layer, u' h.

    Rows have any length. The weight of masked elements is exactly 0.
    """

    def __init__(self, options: ScoreOptions, memory_size: int, kernels: Kernels) -> None:
        super().__init__()
        # A multiplicative score needs a query as wide as the memory.
        query_size = memory_size if options.needs_query else 0
        score = SCORES.build(options, query_size, memory_size, kernels)
        assert isinstance(score, Score), "a score without weights cannot pool"
        self.score = score
        self.query_H = nn.Parameter(torch.empty(query_size)) if query_size else None
        if self.query_H is not None:
            nn.init.normal_(self.query_H, std=query_size**-0.5)

    def forward(self, memory_PC: Tensor, packing: Packing) -> tuple[Tensor, Tensor]:
        """Returns the vector of each row [N, C], zero for an empty row, and the weight of each element [P]."""
        return self.pool(memory_PC, packing.row_P, packing.position_P, packing.rows)

    def pool(
        self, memory_PC: Tensor, row_P: Tensor, position_P: Tensor, rows: int, mask_P: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Pools elements at these positions of these rows; a mask marks elements that are not padding."""
        view = View(self.score.keys(memory_PC), own=False, width=memory_PC.shape[0], positions=position_P, covered=None)
        query_1H = memory_PC.new_empty(1, 0) if self.query_H is None else self.query_H.unsqueeze(0)
        (scores_P,) = self.score(query_1H, view)
        if mask_P is not None:
            scores_P = scores_P.masked_fill(~mask_P, -torch.inf)
        weights_P = row_softmax(scores_P, row_P, rows)
        return row_sum(weights_P.unsqueeze(1) * memory_PC, row_P, rows), weights_P


@dataclass(frozen=True)
class EncodedDocuments:
    """Encoder output for a batch of documents."""

    vectors_BC: Tensor
    """v, zero for a document without words."""
    word_weights_W: Tensor
    """Attention weight of each word in its sentence."""
    sentence_weights_N: Tensor
    """Attention weight of each sentence in its document; exactly 0 for an empty one."""


class Level(RecurrentLayers):
    """One level of the hierarchy: recurrent layers, then attention with a learned query."""

    def __init__(self, options: schema.LevelConfig, input_size: int, dropout: float, kernels: Kernels) -> None:
        super().__init__()
        assert isinstance(options.score, ScoreOptions), "a score has the options of a score"
        self.add_layers(options, input_size, dropout, kernels)
        self.attention = Pooling(options.score, self.output_size, kernels)

    def forward(self, parts_PX: Tensor, packing: Packing) -> tuple[Tensor, Tensor]:
        """Returns the vector of each row [N, C], zero for an empty row, and the weight of each element [P]."""
        if not len(parts_PX):
            return parts_PX.new_zeros(packing.rows, self.output_size), parts_PX.new_zeros(0)
        annotations_PC, _ = self.run(parts_PX, packing)
        pooled: tuple[Tensor, Tensor] = self.attention(annotations_PC, packing)
        return pooled


class HierarchicalEncoder(nn.Module):
    """The hierarchical attention network of Yang 2016, section 2.2, eq. 1-10.

    Two differences do not change the functions that can be learned: the update gate z of PyTorch's GRU is the paper's
    1 - z, and its recurrent products have biases of their own.

    There is no padding: words are packed over the sentences of all documents of a batch, then sentences over the
    documents. Empty sentences are skipped.
    """

    def __init__(self, model: schema.ClassifierConfig, vocabulary_size: int, kernels: Kernels) -> None:
        super().__init__()
        table = embedding_table(vocabulary_size, model.embedding_size)
        self.embedding = Embedding(table, model.dropout.word, model.dropout.embedding, kernels)
        self.dropout = model.dropout.layer
        self.drop = kernels.dropout
        self.word = Level(model.word, model.embedding_size, self.dropout, kernels)
        self.sentence = Level(model.sentence, self.word.output_size, self.dropout, kernels)
        self.output_size = self.sentence.output_size

    def unsupported_reason(self) -> str:
        """Why some layers run by the library alone, with the path in the YAML; empty where none does."""
        levels = {"word": self.word, "sentence": self.sentence}
        reasons = (level.only_reference(f"model.{name}") for name, level in levels.items())
        return " and ".join(reason for reason in reasons if reason)

    def forward(self, ids_W: Tensor, words_N: Tensor, sentences_B: Tensor) -> EncodedDocuments:
        """Encode documents of any shape.

        Args:
            ids_W: the words, sentence after sentence and document after document.
            words_N: words of each sentence, on the CPU; 0 for an empty one.
            sentences_B: sentences of each document, on the CPU; 0 for an empty one.
        """
        device = ids_W.device
        words = Packing.of(words_N, device)
        sentences_NC, weights_P = self.word(self.embedding(ids_W.index_select(0, words.element_P)), words)
        word_weights_W = weights_P.new_zeros(len(ids_W)).index_copy(0, words.element_P, weights_P)

        full_N = words_N.cpu() > 0
        document_N = torch.arange(len(sentences_B)).repeat_interleave(sentences_B.cpu())
        sentences = Packing.of(document_N[full_N].bincount(minlength=len(sentences_B)), device)
        # Index of each packed sentence among all sentences: packing counts only those with words.
        sentence_P = full_N.nonzero().squeeze(1).to(device, non_blocking=True).index_select(0, sentences.element_P)
        sentences_NC = self.drop(sentences_NC, self.dropout, self.training)
        vectors_BC, weights_P = self.sentence(sentences_NC.index_select(0, sentence_P), sentences)
        sentence_weights_N = weights_P.new_zeros(len(words_N)).index_copy(0, sentence_P, weights_P)
        return EncodedDocuments(vectors_BC, word_weights_W, sentence_weights_N)


class DocumentClassifier(nn.Module):
    """Classifier network, p = softmax(W_c v + b_c) (Yang 2016, eq. 11)."""

    def __init__(self, model: schema.ClassifierConfig, vocabulary_size: int, labels: int, kernels: Kernels) -> None:
        super().__init__()
        self.encoder = HierarchicalEncoder(model, vocabulary_size, kernels)
        self.dropout = model.dropout.output
        self.drop = kernels.dropout
        self.projection = nn.Linear(self.encoder.output_size, labels)
        initialize(self.projection)

    def forward(self, ids_W: Tensor, words_N: Tensor, sentences_B: Tensor) -> tuple[Tensor, EncodedDocuments]:
        """Returns the logits [B, K] of the labels, and the encoder output; arguments as for the encoder."""
        encoded: EncodedDocuments = self.encoder(ids_W, words_N, sentences_B)
        logits_BK: Tensor = self.projection(self.drop(encoded.vectors_BC, self.dropout, self.training))
        return logits_BK, encoded

    def unsupported_reasons(self) -> UnsupportedReasons:
        """Why its layers run by the library alone."""
        return UnsupportedReasons(layers=self.encoder.unsupported_reason(), recurrence=None)

    def parts(self) -> list[tuple[str, int]]:
        """Returns the name and number of parameters of each part."""
        return parameter_counts(
            {
                "embedding": self.encoder.embedding,
                "words": self.encoder.word,
                "sentences": self.encoder.sentence,
                "labels": self.projection,
            }
        )
