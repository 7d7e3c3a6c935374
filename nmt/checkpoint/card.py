"""Model card of a checkpoint: `README.md`, with the metadata block of the Hugging Face hub, and scores added later."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from nmt.checkpoint.metadata import Metadata
from nmt.config import ClassificationConfig, ExperimentConfig, TranslationConfig
from nmt.config.registry import PartOptions
from nmt.errors import counted, on_one_line

CARD_FILE = "README.md"
"""Not among the checksums of a checkpoint, so that it can be edited."""
SCORES_HEADING = "## Scores\n"
SCORES_TABLE = ("| text | metric | score | signature |", "|---|---|---|---|")
METRIC_NAMES = {"bleu": "BLEU", "chrf": "chrF2", "accuracy": "accuracy", "macro_f1": "macro F1"}
"""Metrics of a validation that a card shows, by their name in the metadata."""
HUB_METRICS = {"bleu": "bleu", "chrf": "chrf", "accuracy": "accuracy", "macro_f1": "f1"}
"""Names of these metrics on the hub."""


class CardScore(NamedTuple):
    """A row of the table of scores."""

    text: str
    """The test set, and how it was translated."""
    metric: str
    value: float
    """In percent."""
    signature: str = ""
    """Of sacrebleu; empty for labels."""

    def row(self) -> str:
        cells = (self.text, self.metric, f"{self.value:.2f}", f"`{self.signature}`" if self.signature else "")
        return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def model_card(config: ExperimentConfig, metadata: Metadata, parameters: int, *, integers: bool) -> str:
    """Returns the text of a checkpoint's model card. Of the corpora it has the names of files, never their folders.

    Args:
        parameters: number of the network's parameters.
        integers: whether they are 8-bit integers on disk.
    """
    name = f"{metadata.source_language} to {metadata.target_language}"
    translates = metadata.target_language is not None
    title = f"Translation from {name}" if translates else f"Classification of documents ({metadata.source_language})"
    sections = [
        f"# {title}",
        "A recurrent network with attention, trained by `nmt` "
        f"{metadata.versions.nmt} ({counted(metadata.step, 'update')}).",
        _use(metadata),
        _scores(config, metadata),
        _data(config, metadata),
        _network(config, metadata, parameters, integers),
        _licence(config),
    ]
    front = yaml.safe_dump(_front_matter(config, metadata), sort_keys=False, allow_unicode=True)
    return f"---\n{front}---\n\n" + "\n\n".join(filter(None, sections)) + "\n"


def with_scores(card: str, scores: Sequence[CardScore]) -> str:
    """Returns the card with these rows in its table of scores; a row for the same text and metric is replaced.

    A card without the table gets one at its end.
    """
    lines = card.splitlines()
    if SCORES_TABLE[1] not in lines:
        lines += ["", SCORES_HEADING.strip(), "", *SCORES_TABLE]
    first = lines.index(SCORES_TABLE[1]) + 1
    last = next((i for i in range(first, len(lines)) if not lines[i].startswith("|")), len(lines))
    rows = {tuple(row.split(" | ")[:2]): row for row in lines[first:last]}
    rows |= {tuple(row.split(" | ")[:2]): row for row in (score.row() for score in scores)}
    return "\n".join([*lines[:first], *rows.values(), *lines[last:]]) + "\n"


def corpus_names(options: PartOptions) -> list[str]:
    """Returns the names of a corpus or collection without folders: those of its files, or of a data set of the hub."""
    values = options.model_dump()
    if values["kind"] == "huggingface":
        subset = [values["name"]] if values["name"] else []
        files = [Path(file).name for file in values["files"]]
        return [", ".join([hub_data_set(options) or Path(values["dataset"]).name, *files, *subset, values["split"]])]
    keys = ("path",) if "path" in values else ("source", "target", "docs", "labels")
    return [Path(values[key]).name for key in keys if values.get(key)]


def hub_data_set(options: PartOptions) -> str | None:
    """Returns the name of a data set on the Hugging Face hub; None for files and folders."""
    values = options.model_dump()
    if values["kind"] != "huggingface" or values["files"]:
        return None
    name = str(values["dataset"])
    return name if re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", name) and not Path(name).exists() else None


def _front_matter(config: ExperimentConfig, metadata: Metadata) -> dict[str, Any]:
    """Returns the metadata block, as https://huggingface.co/docs/hub/model-cards describes it."""
    codes = [re.split("[-_]", code)[0].lower() for code in config.languages]
    translates = metadata.target_language is not None
    data_sets = [name for corpus in _corpora(config) if (name := hub_data_set(corpus))]
    values: dict[str, Any] = {
        "language": list(dict.fromkeys(code for code in codes if re.fullmatch("[a-z]{2,3}", code))),
        **_licence_keys(config.card.licence),
        "pipeline_tag": "translation" if translates else "text-classification",
        "tags": ["attention", "recurrent-neural-network", "nmt"],
        "datasets": list(dict.fromkeys(data_sets)),
        "metrics": [HUB_METRICS[name] for name in metadata.metrics if name in HUB_METRICS],
    }
    return {key: value for key, value in values.items() if value}


def _licence_keys(licence: str | None) -> dict[str, str]:
    if licence is None:
        return {}
    name = licence.lower()
    if re.fullmatch(r"[a-z0-9][a-z0-9.-]*", name):
        return {"license": name}
    return {"license": "other", "license_name": re.sub("[^a-z0-9.]+", "-", name).strip("-") or "other"}


def _corpora(config: ExperimentConfig) -> list[PartOptions]:
    train: list[PartOptions] = getattr(config.data, "train", [])
    return train


def _use(metadata: Metadata) -> str:
    sections = ["## Use", "MODEL is the folder of this file. The package is `nmt-attention`."]
    if metadata.target_language is None:
        return "\n\n".join([*sections, "```sh\nnmt-classify --model MODEL < documents.txt\n```"])
    python = 'import nmt\n\ntranslator = nmt.load("MODEL")\nprint(translator.translate(["A sentence."])[0].text)'
    return "\n\n".join([*sections, "```sh\nnmt-translate --model MODEL < text.txt\n```", f"```python\n{python}\n```"])


def _scores(config: ExperimentConfig, metadata: Metadata) -> str:
    sentences, beam = (getattr(config.validation, key, None) for key in ("sentences", "beam_size"))
    how = f", first {sentences:,} sentences, beam {beam}" if sentences else ""
    rows = [
        CardScore(f"validation{how}", METRIC_NAMES[name], value, metadata.signatures.get(name, "")).row()
        for name, value in metadata.metrics.items()
        if name in METRIC_NAMES and value is not None
    ]
    return "\n".join([SCORES_HEADING, *SCORES_TABLE, *rows])


def _data(config: ExperimentConfig, metadata: Metadata) -> str:
    unit = "sentence pair" if metadata.target_language is not None else "document"
    corpora = _corpora(config)
    sizes: Sequence[int | None] = metadata.training_sizes or [None] * len(corpora)
    rows = [
        f"- {_quoted(corpus)}" + (f": {counted(size, unit)}" if size is not None else "")
        for corpus, size in zip(corpora, sizes, strict=True)
    ]
    validation: PartOptions = config.data.validation  # type: ignore[attr-defined]
    rows.append(f"- validation: {'split from these' if validation.kind == 'split' else _quoted(validation)}")
    return "## Training data\n\n" + "\n".join(rows)


def _quoted(corpus: PartOptions) -> str:
    return ", ".join("`" + on_one_line(name).replace("`", "'") + "`" for name in corpus_names(corpus))


def _network(config: ExperimentConfig, metadata: Metadata, parameters: int, integers: bool) -> str:
    stored = "8-bit integers; the scores of the validation are those of the float32 weights" if integers else "float32"
    kind = {"bpe": "byte-pair encoding", "unigram": "unigram", "char": "characters", "word": "words"}
    pieces = f"{metadata.source_vocabulary:,} pieces"
    if metadata.target_language is not None and not getattr(config.tokenizer, "shared", True):
        pieces = f"{metadata.source_vocabulary:,} source and {metadata.target_vocabulary:,} target pieces"
    rows = [
        *_parts(config),
        f"tokenizer: SentencePiece, {kind[config.tokenizer.kind]}, {pieces}",
        f"parameters: {parameters:,}, {stored}",
    ]
    return "## Network\n\n" + "\n".join(f"- {row}" for row in rows) + "\n\n`config.yaml` has every setting."


def _parts(config: ExperimentConfig) -> list[str]:
    """Describes the parts of the network, a line each."""
    if isinstance(config, ClassificationConfig):
        levels = (("words", config.model.word), ("sentences", config.model.sentence))
        described = [f"{name}: {_layers(level)}, and attention" for name, level in levels]
        return [f"embeddings: {config.model.embedding_size}", *described]
    assert isinstance(config, TranslationConfig)
    model = config.model
    attention = model.attention
    mechanism = f"wiring {attention.wiring.kind}"
    if attention.score.kind != "none":
        heads = f", {attention.heads} heads" if attention.heads > 1 else ""
        mechanism = f"{attention.score.kind} score, {attention.window.kind} window, {mechanism}{heads}"
    rows = [
        f"embeddings: {model.embedding_size}",
        f"encoder: {_layers(model.encoder)}",
        f"decoder: {_layers(model.decoder)}",
        f"attention: {mechanism}",
    ]
    return rows + ([] if model.context.kind == "none" else [f"document context: {model.context.kind}"])


def _layers(section: Any) -> str:
    """Describes a stack of recurrent layers: `2 bidirectional GRU layers of 256`."""
    cell = {"gru": "GRU", "lstm": "LSTM", "rnn": "tanh"}.get(section.cell.kind, section.cell.kind)
    direction = "bidirectional " if getattr(section, "bidirectional", False) is True else ""
    return f"{counted(section.layers, f'{direction}{cell} layer')} of {section.hidden_size}"


def _licence(config: ExperimentConfig) -> str:
    model, data = (value or "not stated" for value in (config.card.licence, config.card.data_licence))
    return f"## Licence\n\nOf the model: {on_one_line(model)}. Of the training data: {on_one_line(data)}."
