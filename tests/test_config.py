"""Parsing of valid YAML."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from nmt.config import Components, dump_config, parse_config, schema
from nmt.config.document import read_document
from nmt.config.registry import PartOptions, fields_below, shape_of
from nmt.errors import ConfigError
from tests.support.components import (
    COMPONENTS,
    FAMILIES,
    LABELLED,
    PRESETS,
    SMALL,
    Bare,
    OptimizerOptions,
    ScheduleOptions,
    ScoreOptions,
    TableOptions,
    TextOptions,
    family,
    load_config,
    parse,
)


def test_a_part_is_registered_after_a_config_was_read() -> None:
    cells = family("cell", gru=Bare)
    components = Components({**FAMILIES, "cell": cells}, PRESETS)
    parse_config(SMALL, "x.yaml", components)
    cells.register("new", ScheduleOptions)(lambda options: None)
    text = SMALL + "model: {encoder: {cell: {kind: new, warmup: 3}}, decoder: {cell: new}}\n"
    model = parse_config(text, "x.yaml", components).model
    assert model.encoder.cell == ScheduleOptions(kind="new", warmup=3)
    assert model.decoder.cell == ScheduleOptions(kind="new")


def test_defaults_are_those_of_the_schema() -> None:
    config = parse(SMALL)
    assert config.run == "runs/small"
    assert config.tokenizer == schema.TokenizerConfig()
    assert config.model.encoder.hidden_size == schema.EncoderConfig().hidden_size
    assert config.model.encoder.cell == Bare(kind="gru")
    assert config.model.attention.score == ScoreOptions(kind="general")
    assert config.training.optimizer == OptimizerOptions(kind="adamw")


@pytest.mark.parametrize("task", schema.TASKS)
def test_every_key_is_documented_and_a_default_subsection_has_its_own_defaults(task: str) -> None:
    for path, field in fields_below(schema.TASKS[task]):
        assert field.description, f"{path} has no sentence under it"
        shape = shape_of(field)
        if shape.section is not None and not field.is_required():
            assert field.get_default(call_default_factory=True) == shape.section()


def test_the_task_says_which_sections_there_are() -> None:
    assert type(parse(SMALL)) is type(parse(SMALL + "task: translation\n")) is schema.TranslationConfig
    labelled = parse(LABELLED)
    assert type(labelled) is schema.ClassificationConfig
    assert labelled.model.word.score == ScoreOptions(kind="additive")
    assert labelled.model.word.hidden_size == 50
    assert parse(LABELLED, "model.word.hidden_size=7").model.word.hidden_size == 7
    assert labelled.languages == ("en",)
    assert parse(SMALL).languages == ("de", "en")


def test_an_override_of_the_task_counts_before_all_others() -> None:
    text = LABELLED.replace("task: classification\n", "")
    config = parse(text, "data.train.0.docs=other.txt", "model.word.score.hidden_size=3", "task=classification")
    assert config.data.train[0].docs == "other.txt"
    assert config.model.word.score == ScoreOptions(kind="additive", hidden_size=3)


def test_the_package_leaves_torch_alone() -> None:
    code = "import sys, nmt.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[1], check=False).returncode == 0


def test_load_reads_a_file_with_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + SMALL.encode())
    assert load_config(path, COMPONENTS, ["seed=7"]).seed == 7


@pytest.mark.parametrize(
    ("written", "value"),
    [
        *[("5e-4", 5e-4), ("1e5", 1e5), ("1E5", 1e5), ("1.", 1.0), (".5", 0.5), ("-1.5e+3", -1500.0), ("0.1", 0.1)],
        *[("12", 12), ("-3", -3), ("+3", 3), ("0", 0)],
        *[("true", True), ("false", False), ("null", None), ("~", None), ("", None)],
        *[(word, word) for word in ("no", "yes", "on", "off", "y", "True", "FALSE", "Null", "None")],
        *[
            (text, text)
            for text in ("010", "0x1F", "0o17", "0b1", "1_000", "12:30", "1:30:00", "2016-01-01", "1e", "=")
        ],
        *[("'12'", "12"), ('"true"', "true"), ("!!str 12", "12"), ("<<", "<<")],
        *[(".inf", float("inf")), ("-.inf", float("-inf"))],
    ],
)
def test_scalars_are_those_of_yaml_1_2(written: str, value: object) -> None:
    root, problems = read_document(f"key: {written}\n", "x")
    read = root.plain()["key"]
    assert read == value
    assert type(read) is type(value)
    assert not problems


def test_keys_are_names_whatever_they_look_like() -> None:
    test = parse(SMALL + "  test: {2016: {source: a, target: b}, no: {source: c, target: d}}\n").data.test
    assert list(test) == ["2016", "no"]


def test_aliases_and_merge_keys() -> None:
    text = """\
    base: &base {a: 1, b: 2}
    other: &other {b: 3, c: 4}
    same: *base
    merged: {<<: *base, b: 5}
    both: {<<: [*base, *other], d: 6}
    """
    root, problems = read_document(text, "x")
    assert not problems
    tree = root.plain()
    assert tree["same"] == {"a": 1, "b": 2}
    assert tree["merged"] == {"a": 1, "b": 5}
    assert tree["both"] == {"a": 1, "b": 2, "c": 4, "d": 6}


def test_whole_floats_are_whole_numbers_and_lists_are_tuples() -> None:
    config = parse(SMALL + "training: {max_steps: 1e5, clip_norm: 5, optimizer: {betas: [0, 0.5]}}\n")
    assert config.training.max_steps == 100_000
    assert isinstance(config.training.max_steps, int)
    assert isinstance(config.training.clip_norm, float)
    assert config.training.optimizer == OptimizerOptions(kind="adamw", betas=(0.0, 0.5))


@pytest.mark.parametrize(
    ("written", "part"),
    [
        ("cosine", {"kind": "cosine", "warmup": 0}),
        ("{kind: cosine}", {"kind": "cosine", "warmup": 0}),
        ("{kind: cosine, warmup: 5}", {"kind": "cosine", "warmup": 5}),
        ("{}", {"kind": "cosine", "warmup": 0}),
    ],
)
def test_a_part_is_a_name_or_a_mapping(written: str, part: dict[str, object]) -> None:
    schedule = parse(SMALL + f"training: {{schedule: {written}}}\n").training.schedule
    assert schedule.model_dump() == part


def test_parts_in_lists_and_by_name() -> None:
    config = parse(
        """\
        run: r
        data:
          source_language: de
          target_language: en
          train:
            - {source: a, target: b}
            - {kind: table, path: c, source_column: German}
          validation: {kind: table, path: d}
          test: {one: {source: e, target: f}}
        """
    )
    one = TextOptions(kind="text", source="a", target="b")
    assert config.data.train == [one, TableOptions(kind="table", path="c", source_column="German")]
    assert config.data.test == {"one": TextOptions(kind="text", source="e", target="f")}


def test_a_section_with_every_line_commented_out_has_its_defaults() -> None:
    assert parse(SMALL + "training:\n  # max_steps: 3\n").training == parse(SMALL).training


def attention(written: str, *overrides: str) -> dict[str, object]:
    return dict(parse(SMALL + f"model:\n  attention: {written}\n", *overrides).model.attention)


BAHDANAU = {
    "score": ScoreOptions(kind="additive", hidden_size=1000, scaled=True),
    "window": Bare(kind="global"),
    "normalizer": Bare(kind="softmax"),
    "wiring": Bare(kind="bahdanau"),
    "heads": 1,
    "coverage": Bare(kind="none"),
    "alignment": "soft",
    "top_k": None,
}


def test_a_preset_is_written_out() -> None:
    assert attention("bahdanau2015") == BAHDANAU
    assert attention("{preset: bahdanau2015}") == BAHDANAU


@pytest.mark.parametrize(
    ("written", "score"),
    [
        ("{hidden_size: 3}", ScoreOptions(kind="additive", hidden_size=3, scaled=True)),
        ("{kind: additive, hidden_size: 3}", ScoreOptions(kind="additive", hidden_size=3, scaled=True)),
        ("{kind: dot, hidden_size: 3}", ScoreOptions(kind="dot", hidden_size=3, scaled=False)),
        ("additive", ScoreOptions(kind="additive")),
    ],
)
def test_pieces_of_a_preset_can_be_changed(written: str, score: PartOptions) -> None:
    assert attention(f"{{preset: bahdanau2015, score: {written}}}") == {**BAHDANAU, "score": score}


@pytest.mark.parametrize(
    ("model", "overrides", "bridge", "workers"),
    [
        ("  attention: luong2015\n", (), "zero", 3),
        ("  decoder: {layers: 2}\n  attention: {preset: luong2015, heads: 2}\n", (), "zero", 3),
        ("  decoder:\n  attention: luong2015\n", (), "zero", 3),
        ("  decoder: {bridge: mean}\n  attention: luong2015\n", (), "mean", 3),
        ("  attention: luong2015\n", ("model.decoder.bridge=final", "data.workers=1"), "final", 1),
        ("  attention: bahdanau2015\n", ("model.attention=luong2015",), "zero", 3),
        ("  attention: luong2015\n", ("model.attention=bahdanau2015",), "final", 0),
    ],
)
def test_a_preset_sets_keys_of_other_sections_unless_they_are_written(
    model: str, overrides: tuple[str, ...], bridge: str, workers: int
) -> None:
    config = parse(SMALL + "model:\n" + model, *overrides)
    assert (config.model.decoder.bridge, config.data.workers) == (bridge, workers)
    assert parse(dump_config(config)) == config


@pytest.mark.parametrize(
    "text", [SMALL + "model: {decoder: 3, attention: luong2015}\n", LABELLED + "model: {attention: luong2015}\n"]
)
def test_a_preset_adds_no_second_mistake(text: str) -> None:
    """It sets nothing in what is not a mapping, nor in a task that has no such section."""
    with pytest.raises(ConfigError) as caught:
        parse(text)
    assert len(caught.value.problems) == 1


def test_options_reach_into_the_part_that_a_preset_names() -> None:
    score = attention("{preset: luong2015, score: {hidden_size: 3}}")["score"]
    assert score == ScoreOptions(kind="dot", hidden_size=3)


def test_overrides_win_over_the_file_and_later_ones_over_earlier_ones() -> None:
    config = parse(SMALL + "seed: 5\n", "seed=6", "run=no", "training.max_steps=7", "seed=8")
    assert (config.seed, config.run, config.training.max_steps) == (8, "no", 7)


def test_overrides_take_yaml() -> None:
    config = parse(SMALL, "tokenizer.user_defined_symbols=[a, '1']", "training.max_epochs=", "training.max_steps=1e3")
    assert config.tokenizer.user_defined_symbols == ["a", "1"]
    assert config.training.max_epochs is None
    assert config.training.max_steps == 1000


def test_overrides_reach_into_lists() -> None:
    listed = SMALL.replace("{source: train.de, target: train.en}", "[{source: a, target: b}, {kind: table, path: c}]")
    config = parse(listed, "data.train.0.weight=2", "data.train.1.source_column=3")
    assert [part.model_dump() for part in config.data.train] == [
        {"kind": "text", "source": "a", "target": "b", "weight": 2.0},
        {"kind": "table", "path": "c", "source_column": 3},
    ]


@pytest.mark.parametrize("path", ["data.train.weight", "data.train.0.weight"])
def test_overrides_reach_into_a_single_corpus(path: str) -> None:
    (corpus,) = parse(SMALL, f"{path}=2").data.train
    assert corpus == TextOptions(kind="text", source="train.de", target="train.en", weight=2.0)


def test_overrides_reach_into_short_forms() -> None:
    override = "model.attention.score.hidden_size=3"
    expected = ScoreOptions(kind="additive", hidden_size=3, scaled=True)
    assert attention("bahdanau2015", override)["score"] == expected
    assert attention("{score: dot}", override)["score"] == ScoreOptions(kind="dot", hidden_size=3)
    assert attention("{}", override)["score"] == ScoreOptions(kind="general", hidden_size=3)
    assert attention("bahdanau2015", "model.attention=luong2015")["score"] == ScoreOptions(kind="dot")


def test_an_override_changes_a_merged_key_for_its_own_section_only() -> None:
    text = SMALL.replace("validation: {source: dev.de", "validation: {<<: *t, source: dev.de").replace(
        "train: {", "train: &t {"
    )
    config = parse(text, "data.train.weight=4")
    assert config.data.train[0].model_dump()["weight"] == 4.0
    assert config.data.validation.model_dump()["weight"] == 1.0
