"""The YAMLs that are shipped: each is read, and trains a step; schema and reference are those of the code."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nmt.config import ClassificationConfig
from nmt.config.registry import Section, fields_below, shape_of
from nmt.config.schema import TASKS
from nmt.config.wording import all_synonyms
from nmt.errors import ConfigError
from nmt.model.attention.presets import ATTENTION_PRESETS
from nmt.tasks.components import COMPONENTS, read_config
from nmt.tasks.training import train
from scripts.make_reference import files
from tests.support.labelled_documents import write_all
from tests.support.training_runs import write_corpus

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


def _numbers(section: type[Section], path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every number of a section, by its path, with its JSON schema."""
    for name, field in section.model_fields.items():
        shape = shape_of(field)
        if shape.section is not None:
            yield from _numbers(shape.section, f"{path}.{name}")
        elif shape.is_leaf:
            yield from ((f"{path}.{name}", number) for number in _numbers_in(shape.schema))


def _numbers_in(schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if schema.get("type") in ("integer", "number"):
        yield schema
    for inside in (*schema.get("anyOf", ()), *schema.get("prefixItems", ()), schema.get("items")):
        if isinstance(inside, dict):
            yield from _numbers_in(inside)


def test_every_number_has_a_lower_and_an_upper_bound() -> None:
    numbers = [number for task, experiment in TASKS.items() for number in _numbers(experiment, task)]
    for family, registry in COMPONENTS.families.items():
        for kind, entry in registry.items():
            numbers += _numbers(entry.options, f"{family}.{kind}")
    assert len(numbers) > 100
    for path, limits in numbers:
        assert limits.keys() & {"minimum", "exclusiveMinimum"}, f"{path} has no lower bound"
        assert limits.keys() & {"maximum", "exclusiveMaximum"}, f"{path} has no upper bound"


@pytest.mark.parametrize(
    "override",
    [
        "model.encoder.hidden_size=10000000",
        "model.embedding_size=4611686018427387904",
        "model.decoder.layers=100000",
        "tokenizer.vocabulary_size=1099511627776",
        "data.train.limit=1e23",
        "training.accumulation=1e20",
        "data.train.weight=1e300",
        "model.attention.window={kind: local_predictive, half_width: 1e9}",
        "search.temperature=1e-300",
        "training.optimizer.learning_rate=1e300",
    ],
)
def test_a_number_out_of_its_bounds_is_one_line(override: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_config(FOLDER / "quickstart.yaml", [override])
    (line,) = caught.value.problems
    assert re.search(r": must be a (whole )?number (from|above) .* (to|up to) .*, not ", line)


def test_parts_that_do_not_go_together_are_told_beside_other_mistakes() -> None:
    overrides = [
        "training.bach_tokens=3",
        "model.dropout.layer=2",
        "model.decoder.hidden_size=64",
        "model.attention={score: dot, coverage: neural, wiring: conditional}",
        "training.guided_alignment.weight=1",
        "search.beam_size=x",
        "search.coverage_penalty=0.2",
        "data.validation=3",
        "model.context=summary",
    ]
    with pytest.raises(ConfigError) as caught:
        read_config(FOLDER / "quickstart.yaml", overrides)
    in_file, *told = [line.removeprefix("--set ").split(": ")[0] for line in caught.value.problems]
    assert in_file == f"{FOLDER / 'quickstart.yaml'}:8"
    assert told == [
        *("training.bach_tokens", "model.dropout.layer"),
        "model.attention.score",
        "model.attention.coverage",
        *("training.guided_alignment.weight", "search.beam_size", "data.validation"),
    ]


def test_every_word_of_another_toolkit_leads_to_a_key_that_there_is() -> None:
    assert len(all_synonyms()) > 300
    there = {path for experiment in TASKS.values() for path, _ in fields_below(experiment, COMPONENTS.families)}
    for word, keys in all_synonyms().items():
        assert set(keys) <= there, f"{word}: there is no {set(keys) - there}"


@pytest.mark.parametrize(
    ("override", "suggestion"),
    [
        ("src=a", "did you mean 'data.train.source'?"),
        ("data.train.src=a", "did you mean 'source'?"),
        ("data.train.tgt=a", "did you mean 'target'?"),
        ("train_from=a", "did you mean 'training.start_from'?"),
        ("batch_size=64", "did you mean 'training.batch_tokens'?"),
        ("training.batchSize=64", "did you mean 'batch_tokens'?"),
        ("training.lr=1", "did you mean 'training.optimizer.learning_rate'?"),
        ("model.hidden=5", "did you mean 'model.encoder.hidden_size' or 'model.decoder.hidden_size'?"),
        ("model.encoder.rnn_size=5", "did you mean 'hidden_size'?"),
        ("model.emb-size=5", "did you mean 'embedding_size'?"),
        ("epochs=5", "did you mean 'training.max_epochs'?"),
        ("beam=5", "did you mean 'search.beam_size'?"),
        ("vocab_size=5", "did you mean 'tokenizer.vocabulary_size'?"),
    ],
)
def test_words_of_other_toolkits_are_understood(override: str, suggestion: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_config(FOLDER / "quickstart.yaml", [override])
    (line,) = caught.value.problems
    assert line.endswith(f"; {suggestion}")


def test_suggestions_are_keys_of_the_task() -> None:
    with pytest.raises(ConfigError) as caught:
        read_config(FOLDER / "imdb.yaml", ["model.hidden=5", "src=a"])
    assert [line.split("; ", 1)[1] for line in caught.value.problems] == [
        "did you mean 'model.word.hidden_size' or 'model.sentence.hidden_size'?",
        "choose from run, task, seed, plugins, data, tokenizer, model, training, validation, runtime, card",
    ]


def test_attention_is_not_divided_by_a_vanishing_fertility() -> None:
    for written, right in (("1e-300", False), ("0", True), ("0.01", True)):
        override = f"model.attention.coverage={{kind: linguistic, max_fertility: {written}}}"
        if right:
            read_config(FOLDER / "quickstart.yaml", [override])
            continue
        with pytest.raises(ConfigError, match="max_fertility: is 1e-300, too little to divide by"):
            read_config(FOLDER / "quickstart.yaml", [override])
