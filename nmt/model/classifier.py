"""The classifier: a document's vector, and the labels it may have.

Shapes: B documents, N sentences of all documents, W words of all sentences, C features, K labels.
"""

from __future__ import annotations

from torch import Tensor, nn

from nmt.config import schema
from nmt.kernels.select import Kernels, UnsupportedReasons
from nmt.model.document import EncodedDocuments, HierarchicalEncoder
from nmt.model.embedding import Embedding, embedding_table


class DocumentClassifier(nn.Module):
    """p = softmax(W_c v + b_c) (Yang 2016, eq. 11), as a network."""

    def __init__(self, model: schema.ClassifierConfig, vocabulary_size: int, labels: int, kernels: Kernels) -> None:
        super().__init__()
        table = embedding_table(vocabulary_size, model.embedding_size)
        self.encoder = HierarchicalEncoder(
            model.word,
            model.sentence,
            Embedding(table, model.dropout.word, model.dropout.embedding, kernels),
            model.embedding_size,
            model.dropout.layer,
            kernels,
        )
        self.dropout = model.dropout.output
        self.drop = kernels.dropout
        self.projection = nn.Linear(self.encoder.output_size, labels)
        nn.init.xavier_uniform_(self.projection.weight)
        nn.init.zeros_(self.projection.bias)

    def forward(self, ids_W: Tensor, words_N: Tensor, sentences_B: Tensor) -> tuple[Tensor, EncodedDocuments]:
        """Logits [B, K] of the labels, and what was attended to; the arguments are those of the encoder."""
        encoded: EncodedDocuments = self.encoder(ids_W, words_N, sentences_B)
        logits_BK: Tensor = self.projection(self.drop(encoded.vectors_BC, self.dropout, self.training))
        return logits_BK, encoded

    def unsupported_reasons(self) -> UnsupportedReasons:
        """Why its layers run by the library alone."""
        return UnsupportedReasons(layers=self.encoder.unsupported_reason(), recurrence=None)

    def parts(self) -> list[tuple[str, int]]:
        """The parts of the network and their numbers of parameters."""
        modules = {
            "embedding": self.encoder.embedding,
            "words": self.encoder.word,
            "sentences": self.encoder.sentence,
            "labels": self.projection,
        }
        return [(name, sum(each.numel() for each in module.parameters())) for name, module in modules.items()]
