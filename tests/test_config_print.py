"""Printed configs, the reference and the JSON schema can be parsed again."""

from __future__ import annotations

from typing import Any

import pytest

from nmt.config import difference, dump_config
from nmt.config.document import read_document
from nmt.config.registry import fields_below
from nmt.config.schema import TASKS, TranslationConfig
from nmt.tasks.components import parse_saved_config
from scripts.json_schema import json_schema
from scripts.make_reference import reference_yaml
from tests.support.components import COMPONENTS, FAMILIES, LABELLED, SMALL, parse

NASTY = [
    *["no", "yes", "on", "y", "true", "True", "null", "~", "", "<<", "=", "1e3", "5e-4", "1.", ".5", "12", "-3", "+1"],
    *["010", "0x1F", "0o17", "1_000", "12:30", "2016-01-01", ".inf", ".nan", "#x", "a #b", "a: b", "a:", ": a", "- a"],
    *["-", "?", "? a", "[x]", "{x", "x]", "a, b", "'", '"', "a'b", "&a", "*a", "!a", "%a", "@a", "`a", "|", ">", "---"],
    "a" * 300,
    *[
        " lead",
        "trail ",
        "\t",
        "\n",
        "a\nb",
        "a\r\nb",
        "\\n",
        "für",
        "😀",
        "\x85",
        "\u2028",
        "\ufeff",
        "a" * 300,
    ],
]


def everything() -> TranslationConfig:
    return parse(
        """\
run: "no"
data:
  source_language: "null"
  target_language: "1e3"
  train:
    - {source: "5e-4", target: "a: b", weight: 5e-4}
    - {kind: table, path: c, source_column: "1"}
  validation: {kind: table, path: d, source_column: 2}
  test: {2016: {source: a, target: b}, "yes": {kind: table, path: "#1"}}
model:
  attention: {preset: bahdanau2015, score: {hidden_size: 7}}
training:
  max_epochs: null
  max_steps: 1e6
  optimizer: {learning_rate: 3e-10, betas: [0.9, 1e-20]}
search: {length_penalty: 1e-300}
"""
    )


@pytest.mark.parametrize("comments", [False, True])
def test_what_is_printed_loads_as_an_equal_config(comments: bool) -> None:
    config = everything()
    assert parse(dump_config(config, comments)) == config


@pytest.mark.parametrize("comments", [False, True])
def test_every_text_survives(comments: bool) -> None:
    config = parse(SMALL)
    config = config.model_copy(
        update={"tokenizer": config.tokenizer.model_copy(update={"user_defined_symbols": NASTY})}
    )
    assert parse(dump_config(config, comments)).tokenizer.user_defined_symbols == NASTY


@pytest.mark.parametrize("text", [text for text in NASTY if text])
def test_every_text_survives_by_itself_and_as_a_name(text: str) -> None:
    config = parse(SMALL)
    corpus = config.data.validation
    data = config.data.model_copy(update={"test": {text: corpus}})
    config = config.model_copy(update={"run": text, "data": data})
    assert parse(dump_config(config)) == config


def test_presets_and_defaults_are_written_out_in_the_order_of_the_schema() -> None:
    lines = dump_config(everything()).splitlines()
    assert [line.split(":")[0] for line in lines if line[0] != " "] == list(TranslationConfig.model_fields)
    start = lines.index("  attention:")
    assert lines[start : start + 8] == [
        "  attention:",
        "    score:",
        "      kind: additive",
        "      hidden_size: 7",
        "      scaled: true",
        "    window: global",
        "    normalizer: softmax",
        "    wiring: bahdanau",
    ]


def test_comments_are_the_sentences_under_the_fields() -> None:
    lines = [line.strip() for line in dump_config(everything(), comments=True).splitlines()]
    assert lines[lines.index("max_ratio: 9.0") - 1].startswith("# Largest ratio of the longer side")
    assert lines[lines.index("hidden_size: 7") - 1] == "# Units of the score."
    assert max(map(len, lines)) <= 112


def test_no_comment_without_being_asked() -> None:
    assert "# " not in dump_config(parse(SMALL))


@pytest.mark.parametrize(("task", "small"), [("translation", SMALL), ("classification", LABELLED)])
def test_the_reference_has_every_key_and_loads_as_it_is(task: str, small: str) -> None:
    text = reference_yaml(COMPONENTS, task)
    written = read_document(text, "reference")[0]
    for path, _ in fields_below(TASKS[task]):
        node = written
        for key in path.split("."):
            below = node.child(key)
            assert below is not None, f"{path} is not in the reference"
            node = below
    config = parse(text)
    assert type(config) is TASKS[task]
    assert config.model_dump(exclude={"run", "data"}) == parse(small).model_dump(exclude={"run", "data"})


def test_the_reference_tells_types_ranges_defaults_and_choices() -> None:
    lines = reference_yaml(COMPONENTS).splitlines()
    for line in (
        "# Seed of every random choice. [a whole number from 0 to below 4,294,967,296; default 1]",
        "    # Units of each layer and direction. [a whole number from 1 to 65,536; default 256]",
        "  # Code of the language to translate from, such as `de`. [text; required]",
        "  # Course of the learning rate. [schedule; default cosine]",
        "  #   cosine: Description of a part.",
        "  #       warmup: Updates of warm-up. [a whole number of at least 0; default 0]",
        "  #   luong2015: {score: dot, wiring: luong, model.decoder.bridge: zero, data.workers: 3}",
    ):
        assert line in lines
    for registry in FAMILIES.values():
        for kind in registry:
            assert any(line.strip() == f"#   {kind}: Description of a part." for line in lines)


def test_differences_are_told_by_path() -> None:
    old = parse(
        SMALL + "training: {schedule: {kind: cosine, warmup: 5}, optimizer: sgd}\n"
        "model: {attention: {score: {kind: dot, hidden_size: 3}, wiring: luong}}\n"
    )
    assert difference(old, old) == {}
    new = parse(
        SMALL.replace("dev.de", "other.de") + "seed: 9\ntraining: {schedule: {kind: cosine, warmup: 6}}\n",
        "data.test.extra={source: a, target: b}",
        "model.attention.wiring=luong",
        "tokenizer.user_defined_symbols=[a]",
        "data.train.0.weight=2",
    )
    found = difference(old, new)
    assert found.pop("data.test.extra")[0] is None
    assert found == {
        "seed": (1, 9),
        "data.train.0.weight": (1.0, 2.0),
        "data.validation.source": ("dev.de", "other.de"),
        "tokenizer.user_defined_symbols": ([], ["a"]),
        "model.attention.score.kind": ("dot", "general"),
        "training.optimizer.kind": ("sgd", "adamw"),
        "training.schedule.warmup": (5, 6),
    }


def test_lists_of_other_lengths_differ_as_a_whole() -> None:
    longer = SMALL.replace("{source: train.de, target: train.en}", "[{source: a, target: b}, {source: c, target: d}]")
    (path,) = difference(parse(SMALL), parse(longer))
    assert path == "data.train"


def test_another_corpus_of_every_kind_differs() -> None:
    """Options of a corpus have an attribute `keys`, with which `dict` would take them for a mapping."""
    for corpus in ("{source: %s, target: b}", "{kind: tsv, path: %s}", "{kind: huggingface, dataset: %s}"):
        old, new = (
            parse_saved_config(SMALL.replace("{source: train.de, target: train.en}", corpus % name), "x.yaml")
            for name in ("one", "two")
        )
        assert list(difference(old, new).values()) == [("one", "two")]


GOOD = [
    SMALL,
    SMALL + "training: {optimizer: sgd, schedule: {kind: cosine, warmup: 3}, max_steps: 1e5}\nsearch:\n",
    SMALL + "model: {attention: bahdanau2015, encoder: {cell: lstm}}\n",
    SMALL + "model: {attention: {preset: luong2015, score: {hidden_size: 3}, window: global}}\n",
    SMALL + "model: {attention: {score: {kind: none}}}\n",
    SMALL + "model: {attention: {preset: sutskever2014, score: {context: true}}}\n",
    SMALL + "training: {optimizer: {betas: [0.1, 0.2], learning_rate: 5e-4}}\n",
    SMALL.replace("train: {source: train.de, target: train.en}", "train: [{kind: table, path: a, source_column: b}]"),
    SMALL + "  test:\n",
    SMALL + "  test: {2016: {source: a, target: b}}\n",
    SMALL + "task: translation\n",
    LABELLED,
    LABELLED + "model: {word: {cell: lstm, score: {kind: additive, hidden_size: 3}}, sentence: {score: dot}}\n",
    LABELLED + "training: {early_stopping: {metric: macro_f1}}\n  \n",
    LABELLED + "  test: {2016: {kind: table, path: a, source_column: 2}}\n",
]
BAD = [
    "seed: 1\n",
    SMALL + "sed: 1\n",
    SMALL + "seed: -1\n",
    SMALL + "training: {optimizer: adm}\n",
    SMALL + "training: {optimizer: {kind: sgd, betas: [0, 0]}}\n",
    SMALL + "training: {optimizer: {betas: [0]}}\n",
    SMALL + "training: {schedule: {warm: 3}}\n",
    SMALL + "model: {attention: luong}\n",
    SMALL + "model: {attention: {preset: luong}}\n",
    SMALL + "tokenizer: {kind: letters}\n",
    SMALL + "tokenizer: {shared: yes}\n",
    SMALL.replace("target: dev.en", "weight: 1"),
    SMALL.replace("{source: dev.de, target: dev.en}", "text"),
    SMALL + "task: classification\n",
    SMALL + "task: null\n",
    SMALL + "task: clasification\n",
    LABELLED.replace("task: classification\n", ""),
    LABELLED + "search: {beam_size: 3}\n",
    LABELLED + "training: {early_stopping: {metric: bleu}}\n",
    LABELLED + "training: {guided_alignment: {weight: 1}}\n",
    LABELLED + "model: {word: {score: adtive}}\n",
]


def accepts(text: str) -> bool:
    jsonschema: Any = pytest.importorskip("jsonschema")
    schema = json_schema(COMPONENTS)
    jsonschema.Draft202012Validator.check_schema(schema)
    return bool(jsonschema.Draft202012Validator(schema).is_valid(read_document(text, "x")[0].plain()))


@pytest.mark.parametrize("text", GOOD)
def test_the_json_schema_accepts_what_the_reader_accepts(text: str) -> None:
    parse(text)
    assert accepts(text)


def test_the_json_schema_accepts_what_is_printed() -> None:
    assert accepts(dump_config(everything()))
    assert accepts(dump_config(parse(LABELLED)))
    for task in TASKS:
        assert accepts(reference_yaml(COMPONENTS, task))


@pytest.mark.parametrize("text", BAD)
def test_the_json_schema_refuses_what_the_reader_refuses(text: str) -> None:
    with pytest.raises(Exception, match=r"x\.yaml:"):
        parse(text)
    assert not accepts(text)


def test_the_json_schema_describes_every_key_and_names_every_part() -> None:
    whole = json_schema(COMPONENTS)
    assert whole["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert whole["if"] == {"properties": {"task": {"const": "classification"}}, "required": ["task"]}
    assert "word" in whole["then"]["properties"]["model"]["properties"]
    schema = whole["else"]
    seed = schema["properties"]["seed"]
    assert seed == {
        "description": "Seed of every random choice.",
        "type": "integer",
        "minimum": 0,
        "exclusiveMaximum": 4294967296,
        "default": 1,
    }
    assert schema["required"] == ["run", "data"]
    assert schema["additionalProperties"] is False
    assert whole["$defs"]["cell"]["anyOf"][0] == {"enum": ["gru", "lstm"]}
    assert whole["$defs"]["cell.lstm"]["properties"]["kind"] == {"const": "lstm"}
    # A corpus needs a file: its name alone says nothing.
    assert all("enum" not in choice for choice in whole["$defs"]["corpus"]["anyOf"])
    attention = schema["properties"]["model"]["properties"]["attention"]
    assert attention["anyOf"][0] == {"enum": ["bahdanau2015", "luong2015", "sutskever2014"]}
