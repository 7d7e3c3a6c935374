"""Documents in, labels out.

Shapes: B documents of a batch, K labels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch

from nmt.checkpoint import Metadata, find, load_model_files
from nmt.checkpoint.folder import CONFIG_FILE
from nmt.config import ClassificationConfig
from nmt.data.batching import documents_batch
from nmt.data.batching.plan import fill
from nmt.data.cache import Reader
from nmt.data.cache.reading import Sentences
from nmt.data.tokenizer import Tokenizer
from nmt.errors import CheckpointError, ConfigError
from nmt.kernels.choice import choose_packed
from nmt.kernels.packed import PackedGru
from nmt.model.classifier import DocumentClassifier
from nmt.model.modules import without_memory
from nmt.runtime import Runtime, gather_objects, rng_state, set_rng_state
from nmt.runtime.halving import in_halves
from nmt.tasks.components import parse_saved_config

Floats = npt.NDArray[np.floating]


@dataclass(frozen=True)
class Labeller:
    """What labels documents."""

    classifier: DocumentClassifier
    """In evaluation mode, on the runtime's device."""
    labels: tuple[str, ...]
    runtime: Runtime
    batch_tokens: int
    """Words that are read at once."""
    gru: PackedGru | None
    """What recurrent layers that can are run by; None leaves them to the library."""


@dataclass(frozen=True)
class TrainedClassifier:
    """A checkpoint in memory: nothing outside of its folder was read."""

    classifier: DocumentClassifier
    tokenizer: Tokenizer
    labels: tuple[str, ...]
    config: ClassificationConfig
    metadata: Metadata
    path: Path

    @property
    def reader(self) -> Reader:
        """Reads documents as in training."""
        return Reader.of(self.tokenizer, self.config.data.language, self.config.data.filters)

    def labeller(self, runtime: Runtime) -> Labeller:
        """The model, ready to label."""
        kernel = choose_packed("auto", runtime.device, self.classifier.encoder.obstacle())
        return Labeller(self.classifier, self.labels, runtime, self.config.training.batch_tokens, kernel.gru)


@dataclass(frozen=True)
class Labelled:
    """What the model says of a document."""

    probabilities_K: Floats
    sentence_weights: tuple[float, ...]
    """Of each sentence in the document; empty where weights are not wanted."""
    word_weights: tuple[tuple[float, ...], ...]
    """Of each piece in its sentence, sentence by sentence."""

    @property
    def best(self) -> int:
        """The place of the most probable label."""
        return int(self.probabilities_K.argmax())


def load_classifier(path: Path | str, which: Literal["best", "last"] | None, runtime: Runtime) -> TrainedClassifier:
    """The classifier of a run, of a checkpoint folder or of a pointer file; leaves the random generators as they are.

    Raises `CheckpointError`, among others for a model that translates, or `ConfigError` for an edited config and
    for integers, which only a translator is packed in.
    """
    if runtime.weights == "int8":
        raise ConfigError("runtime.precision: int8 only translates; labels take fp32 or bf16")
    folder = find(path, which)
    loaded = load_model_files(folder)
    config = parse_saved_config(loaded.config_text, str(folder / CONFIG_FILE))
    if not isinstance(config, ClassificationConfig):
        raise CheckpointError(f"{folder}: this model translates, it labels no documents; nmt-translate uses it")
    labels, tokenizer = tuple(loaded.metadata.labels), loaded.tokenizers.source
    network = partial(DocumentClassifier, config.model, tokenizer.size, len(labels))
    # Names and shapes are compared before the network takes memory: an edited config may describe a huge one.
    loaded.load_into(without_memory(network))
    before = rng_state()
    classifier = network()
    set_rng_state(before)
    loaded.load_into(classifier)
    classifier.to(runtime.device).eval()
    return TrainedClassifier(classifier, tokenizer, labels, config, loaded.metadata, folder)


def label_documents(
    labeller: Labeller,
    documents: Sequence[Sentences],
    *,
    weights: bool = False,
    first_line: int = 1,
    advance: Callable[[int], object] | None = None,
) -> list[Labelled | None]:
    """Label documents in batches of similar size; a result does not depend on the documents around it.

    Several processes share the batches out and all get all results, the same as one process would.

    Args:
        labeller: what labels.
        documents: sentences of ids. One without a word has no label, and the model does not see it.
        weights: whether what the model attended to is wanted.
        first_line: number of the first document, for messages.
        advance: told how many documents are done since it was last called; of this process's own share.

    Raises `NmtError` where a document does not fit into memory.
    """
    runtime = labeller.runtime

    def work(rows: Sequence[int]) -> list[Labelled]:
        batch = documents_batch([documents[row] for row in rows]).to(runtime.device)
        with torch.inference_mode(), runtime.autocast():
            logits_BK, encoded = labeller.classifier(batch.ids_W, batch.words_N, batch.sentences_B, labeller.gru)
        probabilities_BK = torch.softmax(logits_BK.double(), 1).cpu().numpy()
        if not weights:
            return [Labelled(probabilities_K, (), ()) for probabilities_K in probabilities_BK]
        words = iter(encoded.word_weights_W.tolist())
        sentences = iter(encoded.sentence_weights_N.tolist())
        return [
            Labelled(
                probabilities_K,
                tuple(next(sentences) for _ in documents[row]),
                tuple(tuple(next(words) for _ in sentence) for sentence in documents[row]),
            )
            for row, probabilities_K in zip(rows, probabilities_BK, strict=True)
        ]

    def too_large(row: int) -> str:
        return (
            f"document {first_line + row}: out of memory on {runtime.device} with this document alone, of "
            f"{_words(documents[row]):,} pieces; shorten it"
        )

    advance = advance or (lambda _: None)
    sizes = [_words(document) for document in documents]
    advance(sizes.count(0))
    mine: dict[int, Labelled] = {}
    for rows in _batches(sizes, labeller.batch_tokens, runtime.rank, runtime.world):
        for part, results in in_halves(work, rows, too_large):
            mine.update(zip(part, results, strict=True))
            advance(len(part))
    found = {row: labelled for share in gather_objects(mine) for row, labelled in share.items()}
    return [found.get(row) for row in range(len(documents))]


def _words(document: Sentences) -> int:
    return sum(map(len, document))


def _batches(sizes: Sequence[int], batch_tokens: int, rank: int, world: int) -> Iterator[list[int]]:
    """Rows of similar size, the largest first, every `world`-th batch; rows without a word are left out."""
    words = np.asarray(sizes, np.int64)
    order = np.argsort(-words, kind="stable")
    order = order[words[order] > 0]
    bounds = fill(words[order], batch_tokens)
    for number in range(rank, len(bounds) - 1, world):
        yield order[bounds[number] : bounds[number + 1]].tolist()
