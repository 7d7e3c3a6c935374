"""The YAMLs that are shipped: each is read, and trains a step; schema and reference are those of the code."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nmt.config import ClassificationConfig
from nmt.experiment.families import read_config
from nmt.experiment.training import train
from nmt.model.attention.presets import ATTENTION_PRESETS
from scripts.make_reference import files
from tests.documents import write_all
from tests.runs import write_corpus

FOLDER = Path(__file__).parent.parent / "configs"
CONFIGS = sorted(FOLDER.rglob("*.yaml"))


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_a_shipped_config_trains_a_step(config: Path, tmp_path: Path) -> None:
    """On a corpus of letters, in documents where it has context, or on some documents to label."""
    if isinstance(read_config(config), ClassificationConfig):
        write_all(tmp_path, 20)
        files, valid = "{{docs: {0}/{1}.txt, labels: {0}/{1}.tsv}}", "dev"
        own = ["tokenizer.vocabulary_size=60"]
    else:
        write_corpus(tmp_path, pairs=20)
        for name, pairs in (("train", 20), ("valid", 16)):
            (tmp_path / f"{name}.docid").write_text("".join(f"{row // 5}\n" for row in range(pairs)))
        files, valid = "{{source: {0}/{1}.xx, target: {0}/{1}.yy, documents: {0}/{1}.docid}}", "valid"
        own = ["tokenizer.vocabulary_size=16", "validation.sentences=2", "training.start_from=null"]
    overrides = [
        f"run={tmp_path}/run",
        f"data.train={files.format(tmp_path, 'train')}",
        f"data.validation={files.format(tmp_path, valid)}",
        "data.test={}",
        "data.cache=null",
        "training.max_steps=1",
        "runtime={device: cpu, precision: fp32}",
        *own,
    ]
    outcome = train(read_config(config, overrides))
    assert outcome.progress.step == 1
    assert outcome.progress.skipped == 0


@pytest.mark.parametrize("name", ["schema.json", "reference.yaml", "reference-classification.yaml"])
def test_schema_and_reference_are_those_of_the_code(name: str) -> None:
    """`python scripts/make_reference.py` writes them."""
    assert (FOLDER / name).read_text(encoding="utf-8") == files()[name]


def test_every_published_system_has_a_config_of_its_name() -> None:
    for preset in ATTENTION_PRESETS:
        model = read_config(FOLDER / "attention" / f"{preset}.yaml").model
        named = read_config(FOLDER / "quickstart.yaml", [f"model.attention={preset}"])
        assert model.attention == named.model.attention
    assert {path.stem for path in (FOLDER / "attention").iterdir()} == set(ATTENTION_PRESETS)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_editors_are_told_of_the_schema(config: Path) -> None:
    first = config.read_text(encoding="utf-8").splitlines()[0]
    path = first.removeprefix("# yaml-language-server: $schema=")
    assert json.loads((config.parent / path).read_text(encoding="utf-8"))["$schema"].startswith(
        "https://json-schema.org"
    )
