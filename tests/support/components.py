"""Small components, so that the configuration is tested without the components of the project."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from pydantic import Field

from nmt.config import Components, ExperimentConfig, PartOptions, Registry, TranslationConfig, parse_config
from nmt.config.reader import build_config, read_tree


class TextOptions(PartOptions):
    source: str
    """File in the source language."""
    target: str
    """File in the target language."""
    weight: Annotated[float, Field(gt=0.0)] = 1.0
    """Weight of the pairs."""


class TableOptions(PartOptions):
    path: str
    """The file."""
    source_column: Annotated[int, Field(ge=1)] | str = 1
    """Number or name of the column."""


class LabelledOptions(PartOptions):
    docs: str
    """File of documents."""
    labels: str
    """File of their labels."""


class Bare(PartOptions):
    pass


class ScoreOptions(PartOptions):
    hidden_size: Annotated[int, Field(ge=1)] | None = None
    """Units of the score."""
    scaled: bool = False
    """Divide by the root of the size."""


class NoScoreOptions(PartOptions):
    context: bool = True
    """Whether every step sees the last state."""


class OptimizerOptions(PartOptions):
    learning_rate: Annotated[float, Field(gt=0.0)] = 1e-3
    """Learning rate."""
    betas: tuple[float, float] = (0.9, 0.98)
    """Decays of the averages."""


class ScheduleOptions(PartOptions):
    warmup: Annotated[int, Field(ge=0)] = 0
    """Updates of warm-up."""


def family(name: str, **kinds: type[PartOptions]) -> Registry[None]:
    registry: Registry[None] = Registry(name)
    for kind, options in kinds.items():

        def build(options: PartOptions) -> None:
            """Description of a part."""

        registry.register(kind, options)(build)
    return registry


FAMILIES = {
    registry.family: registry
    for registry in (
        family("corpus", text=TextOptions, table=TableOptions),
        family("collection", text=LabelledOptions, table=TableOptions),
        family("cell", gru=Bare, lstm=Bare),
        family("score", additive=ScoreOptions, dot=ScoreOptions, general=ScoreOptions, none=NoScoreOptions),
        family("window", **{"global": Bare}),
        family("wiring", bahdanau=Bare, luong=Bare),
        family("normalizer", softmax=Bare),
        family("coverage", none=Bare),
        family("context", none=Bare),
        family("optimizer", adamw=OptimizerOptions, sgd=Bare),
        family("objective", likelihood=Bare),
        family("schedule", constant=Bare, cosine=ScheduleOptions),
    )
}
PRESETS = {
    "model.attention": {
        "bahdanau2015": {"score": {"kind": "additive", "hidden_size": 1000, "scaled": True}, "wiring": "bahdanau"},
        "luong2015": {"score": "dot", "wiring": "luong", "model.decoder.bridge": "zero", "data.workers": 3},
        "sutskever2014": {"score": {"kind": "none", "context": False}},
    }
}
COMPONENTS = Components(FAMILIES, PRESETS)
SMALL = """\
run: runs/small
data:
  source_language: de
  target_language: en
  train: {source: train.de, target: train.en}
  validation: {source: dev.de, target: dev.en}
"""


LABELLED = """\
run: runs/labelled
task: classification
data:
  train: {docs: train.txt, labels: train.tsv}
  validation: {docs: dev.txt, labels: dev.tsv}
"""


def parse(text: str, *overrides: str) -> TranslationConfig:
    return parse_config(text, "x.yaml", COMPONENTS, overrides)


def load_config(path: str | Path, components: Components, overrides: Sequence[str] = ()) -> ExperimentConfig:
    """Reads a YAML file with these components."""
    root, problems = read_tree(path, components.families, overrides)
    return build_config(root, problems, str(path), components)
