"""Documents as words in sentences (Yang 2016): words make sentences, sentences make a document.

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
from nmt.kernels.packed import Packing
from nmt.kernels.select import Kernels
from nmt.model.attention.base import ScoreOptions
from nmt.model.attention.pooling import Pooling
from nmt.model.embedding import Embedding
from nmt.model.layers import RecurrentLayers


@dataclass(frozen=True)
class EncodedDocuments:
    """What the encoder says of a batch of documents."""

    vectors_BC: Tensor
    """v, zero for a document without words."""
    word_weights_W: Tensor
    """Of each word among those of its sentence."""
    sentence_weights_N: Tensor
    """Of each sentence among those of its document; exactly zero for an empty one."""


class Level(RecurrentLayers):
    """The parts of a whole, read in order, and what of them matters."""

    def __init__(self, options: schema.LevelConfig, input_size: int, dropout: float, kernels: Kernels) -> None:
        super().__init__()
        assert isinstance(options.score, ScoreOptions), "a score has the options of a score"
        self.add_layers(options, input_size, dropout, kernels)
        self.attention = Pooling(options.score, self.output_size, kernels)

    def forward(self, parts_PX: Tensor, packing: Packing) -> tuple[Tensor, Tensor]:
        """The vector of each whole [N, C], zero for an empty one, and the weight of each part in it [P]."""
        if not len(parts_PX):
            return parts_PX.new_zeros(packing.rows, self.output_size), parts_PX.new_zeros(0)
        annotations_PC, _ = self.run(parts_PX, packing)
        pooled: tuple[Tensor, Tensor] = self.attention(annotations_PC, packing)
        return pooled


class HierarchicalEncoder(nn.Module):
    """The hierarchical attention network of Yang 2016, section 2.2, eq. 1-10.

    Two differences, neither of which changes what can be learned: the update gate z of PyTorch's GRU is the paper's
    1 - z, and its recurrent products have biases of their own.

    Nothing is padded: words are packed over the sentences of all documents of a batch, whatever their lengths, then
    sentences over the documents. An empty sentence is not read at all.
    """

    def __init__(
        self,
        word: schema.LevelConfig,
        sentence: schema.LevelConfig,
        embedding: Embedding,
        embedding_size: int,
        dropout: float,
        kernels: Kernels,
    ) -> None:
        """`embedding` looks the words up; `dropout` is that of sentence vectors, and between recurrent layers."""
        super().__init__()
        self.embedding = embedding
        self.dropout = dropout
        self.drop = kernels.dropout
        self.word = Level(word, embedding_size, dropout, kernels)
        self.sentence = Level(sentence, self.word.output_size, dropout, kernels)
        self.output_size = self.sentence.output_size

    def unsupported_reason(self) -> str:
        """Why some layers run by the library alone, with the path in the YAML; empty where none does."""
        stuck = [name for name, level in (("word", self.word), ("sentence", self.sentence)) if not level.can_be_fused]
        return " and ".join(f"model.{name}.cell is not gru" for name in stuck)

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
        # Packing counts the sentences that have words; this is which of all sentences each is.
        sentence_P = full_N.nonzero().squeeze(1).to(device, non_blocking=True).index_select(0, sentences.element_P)
        sentences_NC = self.drop(sentences_NC, self.dropout, self.training)
        vectors_BC, weights_P = self.sentence(sentences_NC.index_select(0, sentence_P), sentences)
        sentence_weights_N = weights_P.new_zeros(len(words_N)).index_copy(0, sentence_P, weights_P)
        return EncodedDocuments(vectors_BC, word_weights_W, sentence_weights_N)
