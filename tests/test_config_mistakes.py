"""Mistakes in YAML: each is reported in one line, with its position and a remedy."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import field_validator, model_validator

from nmt.config import Components, PartOptions, TranslationConfig, parse_config
from nmt.errors import ConfigError
from tests.support.components import COMPONENTS, FAMILIES, LABELLED, PRESETS, SMALL, Bare, family, load_config, parse


def mistakes(text: str, *overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse(text, *overrides)
    return list(caught.value.problems)


def test_all_mistakes_of_a_file_at_once() -> None:
    text = """\
run: 3
data:
  source_language: de
  train: []
  trian: 3
  validation: {source: x, taget: y}
model:
  encoder:
    cell: gruu
    dropout: 3
    hidden_size: 0
  attention: bahdanau2016
tokenizer:
  shared: yes
  kind: bpee
  kind: bpe
training:
  optimizer: {betas: [1, x]}
search: {top_k: "5"}
"""
    assert mistakes(text, "model.tie=no", "training.shedule=cosine") == [
        "x.yaml:1: run: must be text, not 3; put it in quotes",
        "x.yaml:2: data.target_language: required, but missing; give text",
        "x.yaml:4: data.train: needs at least 1 entry, but has 0",
        "x.yaml:5: data.trian: unknown key; did you mean 'train'?",
        "x.yaml:6: data.validation.taget: unknown option of the corpus 'text'; did you mean 'target'?",
        "x.yaml:6: data.validation.target: required, but missing; give text",
        "x.yaml:9: model.encoder.cell: unknown cell 'gruu'; did you mean 'gru'? (choose from gru, lstm)",
        "x.yaml:10: model.encoder.dropout: unknown key; did you mean 'model.dropout'?",
        "x.yaml:11: model.encoder.hidden_size: must be a whole number from 1 to 65,536, not 0",
        "x.yaml:12: model.attention: unknown preset 'bahdanau2016'; did you mean 'bahdanau2015'? "
        "(choose from bahdanau2015, luong2015, sutskever2014)",
        "x.yaml:14: tokenizer.shared: must be true or false, not 'yes'; write true",
        "x.yaml:15: tokenizer.kind: must be bpe, unigram, char or word, not 'bpee'; did you mean 'bpe'?",
        "x.yaml:16: tokenizer.kind: key given twice; the first is in line 15; keep one",
        "x.yaml:18: training.optimizer.betas.1: must be a number, not 'x'",
        "x.yaml:19: search.top_k: must be a whole number from 0 to 1,000,000,000, not '5'; take the quotes away",
        "--set model.tie: must be none, target_output, source_target or all, not 'no'; did you mean 'none'?",
        "--set training.shedule: unknown key; did you mean 'schedule'?",
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("sed: 1", "sed: unknown key; did you mean 'seed'?"),
        ("seed: 1.5", "seed: must be a whole number from 0 to below 4,294,967,296, not 1.5"),
        ("seed: true", "seed: must be a whole number from 0 to below 4,294,967,296, not true"),
        ("seed: 010", "seed: must be a whole number from 0 to below 4,294,967,296, not '010'"),
        ("seed: [1]", "seed: must be a whole number from 0 to below 4,294,967,296, not a list"),
        ("seed:", "seed: must be a whole number from 0 to below 4,294,967,296, not null"),
        ("beam_size: 3", "beam_size: unknown key; did you mean 'validation.beam_size' or 'search.beam_size'?"),
        ("model: 3", "model: must be a mapping of keys, not 3"),
        (
            "training: {max_steps: 0}",
            "training.max_steps: must be a whole number from 1 to 1,000,000,000 or null, not 0",
        ),
        (
            "training: {label_smoothing: 1}",
            "training.label_smoothing: must be a number from 0 to below 1, not 1",
        ),
        ("training: {clip_norm: .inf}", "training.clip_norm: must be a number from 0 to 1,000,000, not inf"),
        ("training: {clip_norm: true}", "training.clip_norm: must be a number from 0 to 1,000,000, not true"),
        ("runtime: {threads: 100000}", "runtime.threads: must be a whole number from 0 to 1,024, not 100000"),
        ("search: {top_p: 0}", "search.top_p: must be a number above 0 up to 1, not 0"),
        ("tokenizer: {file: 3}", "tokenizer.file: must be text or null, not 3; put it in quotes"),
        ("tokenizer: {shared: 'false'}", "tokenizer.shared: must be true or false, not 'false'; write false"),
        (
            "tokenizer: {user_defined_symbols: a}",
            "tokenizer.user_defined_symbols: must be a list (of text), not 'a'",
        ),
        (
            "tokenizer: {user_defined_symbols: [a, 3]}",
            "tokenizer.user_defined_symbols.1: must be text, not 3; put it in quotes",
        ),
        (
            "training: {optimizer: {betas: [0.9]}}",
            "training.optimizer.betas: must be a list of 2 values (a number, a number), not of 1",
        ),
        (
            "training: {optimizer: 3}",
            "training.optimizer: must be a name (adamw, sgd) or a mapping with `kind`, not 3",
        ),
        (
            "training: {optimizer: {kind: adma}}",
            "training.optimizer.kind: unknown optimizer 'adma'; did you mean 'adamw'? (choose from adamw, sgd)",
        ),
        (
            "training: {optimizer: {kind: sgd, betas: [0, 0]}}",
            "training.optimizer.betas: unknown option of the optimizer 'sgd'; there is none to choose from",
        ),
        (
            "training: {optimizer: {learning_rate: 0}}",
            "training.optimizer.learning_rate: must be a number above 0, not 0",
        ),
        (
            "model: {attention: null}",
            "model.attention: must be a mapping of keys, or the name of a preset, not null",
        ),
        (
            "model: {attention: {preset: x}}",
            "model.attention: unknown preset 'x'; choose from bahdanau2015, luong2015, sutskever2014",
        ),
        (
            "model: {encoder: {preset: x}}",
            "model.encoder.preset: unknown key; choose from cell, hidden_size, layers, transitions, bidirectional, "
            "residual_from",
        ),
        ("? [a]\n: 1", "a key must be a name, not a list or mapping"),
        ("seed: !x 1", "seed: the tag !x is not supported; leave it out"),
        ("seed: !!int x", "seed: 'x' does not fit the tag before it; leave the tag out"),
        ("model: &m {encoder: *m}", "model.encoder: is an alias of what it stands in; write the value out"),
        ("model: {<<: 3}", "model: `<<` merges mappings only; give it an alias of one, or a list of them"),
    ],
)
def test_one_mistake_gets_one_line(line: str, message: str) -> None:
    assert mistakes(SMALL + line) == [f"x.yaml:7: {message}"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "tokenizer: {source_file: a, shared: false}",
            "tokenizer.target_file: missing beside `source_file`; name the model of the target side too",
        ),
        (
            "tokenizer: {target_file: a, shared: false}",
            "tokenizer.source_file: missing beside `target_file`; name the model of the source side too",
        ),
        (
            "tokenizer: {file: a, source_file: b, target_file: c}",
            "tokenizer.file: excludes `source_file` and `target_file`; keep the one or the other two",
        ),
        (
            "tokenizer: {file: a, shared: false}",
            "tokenizer.shared: must be true with `file`, which serves both sides; or give `source_file` and "
            "`target_file`",
        ),
        (
            "tokenizer: {source_file: a, target_file: b}",
            "tokenizer.shared: must be false with `source_file` and `target_file`, which are two vocabularies",
        ),
        (
            "tokenizer: {kind: char, sampling: 0.1}",
            "tokenizer.sampling: has nothing to draw with kind: char; leave it out, or set kind: bpe or unigram",
        ),
        (
            "tokenizer: {kind: word, sampling: 0.1}",
            "tokenizer.sampling: has nothing to draw with kind: word; leave it out, or set kind: bpe or unigram",
        ),
        (
            "tokenizer: {kind: word, byte_fallback: true}",
            "tokenizer.byte_fallback: spells no words; set it to false, or choose another kind than word",
        ),
        (
            "tokenizer: {kind: word, user_defined_symbols: [x]}",
            "tokenizer.user_defined_symbols: need pieces inside of words; leave them out, or choose another kind",
        ),
        (
            "search: {replace_unknown: copy, allow_unknown: false}",
            "search.replace_unknown: has no effect without allow_unknown; allow unknown pieces, or leave it out",
        ),
        (
            "model: {decoder: {readout: {size: 3}}}",
            "model.decoder.readout.size: is 3, but must equal model.embedding_size (256) with tie: "
            "target_output; leave it out, or set model.tie to none",
        ),
        (
            "search: {kind: greedy, coverage_penalty: 1}",
            "search.coverage_penalty: has no effect with kind: greedy; set kind: beam, or leave it out",
        ),
        ("search: {top_k: 3}", "search.top_k: has no effect with kind: beam; set kind: sampling, or leave it out"),
        (
            "search: {min_length_ratio: 3}",
            "search.min_length_ratio: is 3, above max_length_ratio (2); lower the one or raise the other",
        ),
        ("runtime: {device: mps, precision: bf16}", "runtime.precision: bf16 is not for mps; set fp32 or auto"),
        ("runtime: {device: mps, kernel: fused}", "runtime.kernel: fused is not for mps; set reference or auto"),
        ("runtime: {device: cpu, precision: fp16}", "runtime.precision: fp16 needs a GPU; set bf16, fp32 or auto"),
        (
            "runtime: {device: cuda, precision: int8}",
            "runtime.precision: int8 is for CPUs; set bf16, fp16, fp32 or auto",
        ),
    ],
)
def test_contradictions(line: str, message: str) -> None:
    assert mistakes(SMALL + line) == [f"x.yaml:7: {message}"]


@pytest.mark.parametrize("text", [SMALL, LABELLED], ids=["translation", "classification"])
def test_integers_are_not_trained(text: str) -> None:
    (mistake,) = mistakes(text + "runtime: {precision: int8}")
    assert mistake.endswith(
        "runtime.precision: int8 only translates (nmt-translate --precision int8); set auto, bf16 or fp32"
    )


@pytest.mark.parametrize("tie", ["source_target", "all"])
def test_tied_sides_need_one_vocabulary(tie: str) -> None:
    text = SMALL + f"tokenizer: {{shared: false}}\nmodel:\n  tie: {tie}\n"
    assert mistakes(text) == [
        f"x.yaml:9: model.tie: {tie} needs one vocabulary for both languages; "
        "set tokenizer.shared: true, or tie: target_output"
    ]


def test_a_contradiction_stands_at_the_value_or_else_around_it() -> None:
    text = SMALL + "search:\n  kind: beam\n  temperature: 2\n  top_k: 3\nruntime:\n  precision: int8\n"
    assert [line.split(" ")[0] for line in mistakes(text)] == ["x.yaml:9:", "x.yaml:10:", "x.yaml:12:"]


def test_a_training_without_an_end_is_refused_where_epochs_do_not_follow_the_text() -> None:
    assert mistakes(LABELLED, "training.max_epochs=null") == [
        "--set training.max_epochs: is null, and so is `max_steps`; set one of them, so that training ends"
    ]
    assert parse(SMALL, "training.max_epochs=null").training.max_epochs is None


def test_a_contradiction_that_follows_from_a_typing_error_is_not_told() -> None:
    text = SMALL + "training:\n  max_epochs: null\n  max_step: 3\n"
    assert mistakes(text) == ["x.yaml:9: training.max_step: unknown key; did you mean 'max_steps'?"]


def test_contradictions_are_told_beside_other_mistakes() -> None:
    text = SMALL.replace("dev.en", "3") + (
        "sed: 1\n"
        "tokenizer: {shared: false, file: 3}\n"
        "model: {tie: all, attention: {heads: 3}, decoder: {readout: {size: 5}}, layer_normalization: 3}\n"
        "search: {kind: greedy, coverage_penalty: 1, top_k: x, temperature: 2, min_length_ratio: 3}\n"
        "runtime: {precision: int8, threads: -1}\n"
    )
    assert [line.split(": ")[1] for line in mistakes(text)] == [
        "data.validation.target",
        "sed",
        "tokenizer.file",
        "model.layer_normalization",
        "model.decoder.readout.size",
        "model.attention.heads",
        "model.tie",
        "search.top_k",
        "search.temperature",
        "search.coverage_penalty",
        "search.min_length_ratio",
        "runtime.threads",
        "runtime.precision",
    ]


@pytest.mark.parametrize(
    "wrong",
    [
        "model: {tie: al}\ntokenizer: {shared: false}",
        "model: {tie: all}\ntokenizer: {shared: maybe}",
        "model: {tie: all}\ntokenizer: {sharde: false}",
        "model: {decoder: {hidden_size: x}, attention: {heads: 3}}",
        "model: {decoder: {hiden_size: 9}, attention: {heads: 3}}",
        "search: {kind: beem, top_k: 3}",
    ],
)
def test_a_contradiction_with_a_wrong_value_is_not_told(wrong: str) -> None:
    assert len(mistakes(SMALL + wrong)) == 1


def test_missing_sections_and_kinds() -> None:
    assert mistakes("run: a\n") == [
        "x.yaml:1: data: required, but missing; give a mapping with source_language, target_language, train, validation"
    ]
    assert mistakes("data: {source_language: a, target_language: b, train: {}, validation: {kind: table}}\n") == [
        "x.yaml:1: run: required, but missing; give text",
        "x.yaml:1: data.train.source: required, but missing; give text",
        "x.yaml:1: data.train.target: required, but missing; give text",
        "x.yaml:1: data.validation.path: required, but missing; give text",
    ]
    assert mistakes(SMALL.replace("{source: train.de, target: train.en}", "3").replace("dev.de", "1")) == [
        "x.yaml:5: data.train: must be a list, not 3",
        "x.yaml:6: data.validation.source: must be text, not 1; put it in quotes",
    ]


def test_parts_inside_lists_and_by_name_have_their_lines() -> None:
    text = """\
run: r
data:
  source_language: de
  target_language: en
  train:
    - {source: a, target: b}
    - kind: table
      path: c
      source_column: 0
    - txt
  validation: {source: a, target: b}
  test:
    one: {source: a, target: b}
    two:
      kind: tabel
      path: d
"""
    assert mistakes(text) == [
        "x.yaml:9: data.train.1.source_column: must be a whole number of at least 1 or text, not 0",
        "x.yaml:10: data.train.2: unknown corpus 'txt'; did you mean 'text'? (choose from text, table)",
        "x.yaml:15: data.test.two.kind: unknown corpus 'tabel'; did you mean 'table'? (choose from text, table)",
    ]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seed", "seed: not of the form section.key=value; write it so"),
        ("=3", "=3: not of the form section.key=value; write it so"),
        ("model..tie=all", "model..tie=all: not of the form section.key=value; write it so"),
        ("seed=x", "seed: must be a whole number from 0 to below 4,294,967,296, not 'x'"),
        ("seed.x=3", "seed.x: seed is a single value, nothing in it can be set; set it as a whole"),
        ("run.x=3", "run.x: run is a single value, nothing in it can be set; set it as a whole"),
        ("modle.tie=all", "modle: unknown key; did you mean 'model'?"),
        ("model.tei=all", "model.tei: unknown key; did you mean 'tie'?"),
        (
            "model.encoder.cell.size=3",
            "model.encoder.cell.size: unknown option of the cell 'gru'; there is none to choose from",
        ),
        (
            "data.train.1.weight=3",
            "data.train.1.weight: no item '1' in data.train; it has 1, counted from 0; the last is 0",
        ),
        (
            "data.train.0.weigth=3",
            "data.train.0.weigth: unknown option of the corpus 'text'; did you mean 'weight'?",
        ),
        (
            "model.attention.score.hidden_size=0",
            "model.attention.score.hidden_size: must be a whole number of at least 1 or null, not 0",
        ),
        (
            "runtime.precision=int8",
            "runtime.precision: int8 only translates (nmt-translate --precision int8); set auto, bf16 or fp32",
        ),
        (
            "tokenizer.user_defined_symbols=[a",
            "tokenizer.user_defined_symbols: not valid YAML: while parsing a flow sequence, expected ',' or "
            "']', but got '<stream end>'",
        ),
        ("model={tie: all, tie: none}", "model.tie: key given twice; keep one"),
    ],
)
def test_a_wrong_override_gets_one_line(override: str, message: str) -> None:
    assert mistakes(SMALL, override) == [f"--set {message}"]


def test_a_single_corpus_has_its_lines() -> None:
    single = SMALL.replace("{source: train.de, target: train.en}", "\n    source: a\n    target: b\n    weight: 0")
    assert mistakes(single) == ["x.yaml:8: data.train.weight: must be a number above 0, not 0"]


def test_what_an_override_only_leads_through_is_not_blamed_on_it() -> None:
    assert mistakes("run: a\n", "data.source_language=de") == [
        "x.yaml:1: data.target_language: required, but missing; give text",
        "x.yaml:1: data.train: required, but missing; give a list",
        "x.yaml:1: data.validation: required, but missing; give a name or a mapping with `kind` and its options",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "x.yaml:1: the file is empty; it needs at least `run` and `data`"),
        ("# nothing\n", "x.yaml:1: the file is empty; it needs at least `run` and `data`"),
        ("\n- a\n", "x.yaml:2: the file holds a list; it must be a mapping of `key: value`"),
        ("a\n", "x.yaml:1: the file holds a single value; it must be a mapping of `key: value`"),
        ("run: a\ndata: b: c\n", "x.yaml:2: not valid YAML: mapping values are not allowed here"),
        (
            "run: a\n\tb: c\n",
            "x.yaml:2: not valid YAML: while scanning for the next token, found character '\\t' that cannot "
            "start any token",
        ),
        ("run: a\nb: \x07\n", "x.yaml:2: not valid YAML: the character U+0007 is not allowed"),
        (
            "run: a\n---\nrun: b\n",
            "x.yaml:2: not valid YAML: expected a single document in the stream, but found another document",
        ),
    ],
)
def test_text_that_is_no_mapping(text: str, message: str) -> None:
    assert mistakes(text) == [message]


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    latin = tmp_path / "latin.yaml"
    latin.write_bytes("run: a\nseed: für\n".encode("latin-1"))
    os.mkfifo(tmp_path / "pipe")
    for path, message in (
        (tmp_path / "none.yaml", ": cannot be read: No such file or directory; give the path of a YAML file"),
        (tmp_path, ": cannot be read: Is a directory; give the path of a YAML file"),
        (latin, ":2: not UTF-8; save the file as UTF-8"),
        (tmp_path / "pipe", ": cannot be read: it is a pipe that nothing is written to; give the path of a YAML file"),
        (
            Path("/dev/zero"),
            ": cannot be read: it is larger than 128 KiB, which no config is; give the path of a YAML file",
        ),
        (tmp_path / ("x" * 300), ": cannot be read: File name too long; give the path of a YAML file"),
    ):
        with pytest.raises(ConfigError) as caught:
            load_config(path, COMPONENTS)
        assert caught.value.problems == (f"{path}{message}",)


BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 10)}]\n" for level in range(1, 9)
)
TOO_DEEP = "more than 100 mappings and lists inside each other; a config needs about six"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param(f"run: {'[' * 500}{']' * 500}\n", f"x.yaml:1: not valid YAML: {TOO_DEEP}", id="nested"),
        pytest.param(
            "a0: &a0 [1]\n" + "".join(f"a{n}: &a{n} [[[[[[[[*a{n - 1}]]]]]]]]\n" for n in range(1, 14)),
            f"x.yaml:2: a13{'.0' * 98}...: {TOO_DEEP}",
            id="nested by aliases",
        ),
        pytest.param(
            f"{SMALL}seed: {'9' * 5000}\n",
            "x.yaml:7: seed: is a number of 5,000 characters; write a shorter one",
            id="digits",
        ),
        pytest.param(
            SMALL + 'seed: "\\UFFFFFFFF"\n',
            "x.yaml:7: not valid YAML: the number of an escape or of %YAML is too large",
            id="escape",
        ),
        pytest.param(
            SMALL + "model: {<<: &m {<<: *m}}\n",
            "x.yaml:7: model: is an alias of what it stands in; write the value out",
            id="merged into itself",
        ),
        pytest.param(
            BOMB, "x.yaml:1: aliases of this, and others, repeat more than 200,000 values; use fewer", id="aliases"
        ),
        pytest.param(
            BOMB.replace("[", "{<<: [").replace("]", "]}").replace("{<<: [x, x, x, x, x, x, x, x, x, x]}", "{x: 1}"),
            "x.yaml:1: aliases of this, and others, repeat more than 200,000 values; use fewer",
            id="merges",
        ),
        pytest.param(
            SMALL.replace("train.de", '"a\\0b"'),
            "x.yaml:5: data.train.source: holds the character U+0000, which no text or file name has; leave it out",
            id="NUL",
        ),
        pytest.param(
            SMALL + '"a\\ud800": 1\n', "x.yaml:7: a key holds the character U+D800; leave it out", id="lone surrogate"
        ),
    ],
)
def test_hostile_yaml_is_refused_in_one_line_and_soon(text: str, message: str) -> None:
    started = time.process_time()
    assert message in mistakes(text)
    assert time.process_time() - started < 5


def test_the_first_hundred_of_many_mistakes_are_told_soon() -> None:
    text = SMALL + "".join(f"key_{number}: 1\n" for number in range(5_000))
    started = time.process_time()
    told = mistakes(text)
    assert time.process_time() - started < 5
    assert told[0].startswith("x.yaml:7: key_0: unknown key")
    assert told[99].startswith("x.yaml:106: key_99: unknown key")
    assert told[100:] == ["x.yaml: has more than 100 mistakes; these are the first"]


def test_control_characters_do_not_reach_the_terminal() -> None:
    (line,) = mistakes(SMALL + '"a\\e[31m\\r\\u2028": 1\n')
    assert line.startswith("x.yaml:7: a\\x1b[31m\\r\\u2028: unknown key")


def test_an_override_is_not_deeper_than_a_config() -> None:
    deep = ".".join(["data"] * 2_000)
    (line,) = mistakes(SMALL, f"{deep}=1")
    assert line.endswith("not of the form section.key=value; write it so")


def test_a_name_with_nul_is_no_file() -> None:
    with pytest.raises(ConfigError, match=r"a\\x00b: cannot be read: the name is not one that a file can have"):
        load_config("a\0b", COMPONENTS)


def test_a_pipe_is_read_when_its_writer_is_slow(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    code = "import sys, time; f = open(sys.argv[1], 'w'); time.sleep(1.2); f.write(sys.argv[2])"
    writer = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "pipe"), SMALL])
    assert load_config(tmp_path / "pipe", COMPONENTS).run == "runs/small"
    assert writer.wait() == 0


def test_rules_between_parts_are_reported_with_lines() -> None:
    def narrow(config: TranslationConfig) -> Iterator[tuple[str, str]]:
        if config.model.embedding_size > 100:
            yield "model.embedding_size", "is too wide; lower it"
        yield "data.train.0.weight", "is odd"

    text = SMALL + "model:\n  layer_normalization: true\n  embedding_size: 128\n"
    with pytest.raises(ConfigError) as caught:
        parse_config(text, "x.yaml", Components(FAMILIES, PRESETS, checks=[narrow]))
    assert caught.value.problems == (
        "x.yaml:5: data.train.0.weight: is odd",
        "x.yaml:9: model.embedding_size: is too wide; lower it",
    )


class Even(PartOptions):
    """Options of a plugin with validators of its own."""

    low: int = 0
    """A number."""
    high: int = 2
    """An even number."""

    @field_validator("high")
    @classmethod
    def _is_even(cls, high: int) -> int:
        if high % 2:
            raise ValueError(f"must be even, not {high}")
        return high

    @model_validator(mode="after")
    def _are_ordered(self) -> Even:
        if self.low > self.high:
            raise ValueError(f"low ({self.low}) is above high ({self.high})")
        return self


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("{kind: even, high: 3}", "x.yaml:8: model.encoder.cell.high: must be even, not 3"),
        ("{kind: even, low: 5}", "x.yaml:8: model.encoder.cell: low (5) is above high (2)"),
        ("{kind: even, low: x, high: 4}", "x.yaml:8: model.encoder.cell.low: must be a whole number, not 'x'"),
    ],
)
def test_validators_of_options_have_their_lines(options: str, message: str) -> None:
    components = Components({**FAMILIES, "cell": family("cell", gru=Bare, even=Even)}, PRESETS)
    with pytest.raises(ConfigError) as caught:
        parse_config(f"{SMALL}model:\n  encoder: {{cell: {options}}}\nsed: 1\n", "x.yaml", components)
    assert caught.value.problems == (message, "x.yaml:9: sed: unknown key; did you mean 'seed'?")


def test_a_wrong_task_is_told_before_its_keys() -> None:
    assert mistakes(SMALL + "nothing: 3\ntask: clasification\n") == [
        "x.yaml:8: task: unknown task 'clasification'; did you mean 'classification'? "
        "(choose from translation, classification)"
    ]
    assert mistakes(SMALL, "task=3") == ["--set task: must be a name (translation, classification), not 3"]


def test_all_mistakes_of_a_classification_at_once() -> None:
    text = LABELLED.replace("docs: dev.txt", "doc: dev.txt") + (
        "search: {beam_size: 3}\n"
        "model:\n"
        "  word: {score: aditive, hiden_size: 3}\n"
        "training:\n"
        "  early_stopping: {metric: bleu}\n"
    )
    assert mistakes(text, "data.train.0.labels=3") == [
        "x.yaml:5: data.validation.doc: unknown option of the collection 'text'; did you mean 'docs'?",
        "x.yaml:5: data.validation.docs: required, but missing; give text",
        "x.yaml:6: search: unknown key; choose from run, task, seed, plugins, data, tokenizer, model, training, "
        "validation, runtime, card",
        "x.yaml:8: model.word.hiden_size: unknown key; did you mean 'hidden_size'?",
        "x.yaml:8: model.word.score: unknown score 'aditive'; did you mean 'additive'? "
        "(choose from additive, dot, general, none)",
        "x.yaml:10: training.early_stopping.metric: must be accuracy, macro_f1 or loss, not 'bleu'",
        "--set data.train.0.labels: must be text, not 3; put it in quotes",
    ]


def test_empty_text_where_a_folder_is_needed() -> None:
    assert mistakes(SMALL.replace("runs/small", "''")) == ["x.yaml:1: run: must not be empty"]
    assert mistakes(SMALL, "data.cache=''") == ["--set data.cache: must not be empty"]


def test_a_name_of_a_folder_is_not_endless() -> None:
    assert mistakes(SMALL, f"run={'a/' * 2_000}") == ["--set run: must have at most 1,000 characters, not 4,000"]
