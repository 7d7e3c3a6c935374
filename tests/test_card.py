"""Model cards: what they say, what they keep to themselves, and the scores that nmt-eval adds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from nmt.checkpoint import find, load_model_files, read_metadata
from nmt.checkpoint.card import CARD_FILE, SCORES_TABLE, CardScore, corpus_names, hub_data_set, model_card, with_scores
from nmt.checkpoint.metadata import Metadata
from nmt.cli import evaluate, quantize, train
from nmt.config import ExperimentConfig
from nmt.evaluation.metrics import corpus_scores, signature
from nmt.tasks.components import parse_saved_config
from tests.support.commands import Call
from tests.support.models import REFERENCES, SOURCES, small_config

HUGGING_FACE = """\
run: /home/someone/runs/secret
data:
  source_language: pt-BR
  target_language: en
  train:
    - {source: /home/someone/secret/a.pt.gz, target: /home/someone/secret/a.en.gz}
    - {kind: jsonl, path: /home/someone/secret/b.jsonl, source: pt, target: en}
    - {kind: huggingface, dataset: wmt/wmt14, name: fr-en}
    - {kind: huggingface, dataset: /home/someone/secret/saved}
    - {kind: huggingface, dataset: json, files: [/home/someone/secret/c.json]}
  validation: {split: 10}
card: {licence: CC-BY-4.0, data_licence: "free to use\\nfor all"}
"""


def front_matter(card: str) -> dict[str, Any]:
    start, front, _ = card.split("---\n", 2)
    assert start == ""
    values: dict[str, Any] = yaml.safe_load(front)
    return values


def metadata(checkpoint: Path, **changes: Any) -> Metadata:
    return read_metadata(checkpoint).model_copy(update=changes)


def card(checkpoint: Path, config: ExperimentConfig, **changes: Any) -> str:
    return model_card(config, metadata(checkpoint, **changes), 1234567, integers=False)


def test_a_card_has_the_block_of_the_hub_and_no_folder_of_the_machine(checkpoint: Path) -> None:
    config = parse_saved_config(HUGGING_FACE, "test.yaml")
    text = card(checkpoint, config, training_sizes=[10, 1, 3, 2000, 0], metrics={"bleu": 12.345, "loss": 1.0})
    assert front_matter(text) == {
        "language": ["pt", "en"],
        "license": "cc-by-4.0",
        "pipeline_tag": "translation",
        "tags": ["attention", "recurrent-neural-network", "nmt"],
        "datasets": ["wmt/wmt14"],
        "metrics": ["bleu"],
    }
    assert "someone" not in text
    assert "secret" not in text
    lines = text.splitlines()
    assert [line for line in lines if line.startswith("- `")] == [
        "- `a.pt.gz`, `a.en.gz`: 10 sentence pairs",
        "- `b.jsonl`: 1 sentence pair",
        "- `wmt/wmt14, fr-en, train`: 3 sentence pairs",
        "- `saved, train`: 2,000 sentence pairs",
        "- `json, c.json, train`: 0 sentence pairs",
    ]
    assert "- validation: split from these" in lines
    assert "| validation, first 500 sentences, beam 1 | BLEU | 12.35 |  |" in lines
    assert "- parameters: 1,234,567, float32" in lines
    assert lines[-1] == "Of the model: CC-BY-4.0. Of the training data: free to use for all."


@pytest.mark.parametrize(
    ("licence", "keys"),
    [
        ("null", {}),
        ("mit", {"license": "mit"}),
        ("Apache-2.0", {"license": "apache-2.0"}),
        ("Ask us first", {"license": "other", "license_name": "ask-us-first"}),
    ],
)
def test_a_licence_is_one_of_the_hub_or_has_a_name(checkpoint: Path, licence: str, keys: dict[str, str]) -> None:
    values = front_matter(card(checkpoint, small_config(overrides=[f"card.licence={licence}"])))
    assert {name: value for name, value in values.items() if name.startswith("license")} == keys


def test_scores_are_added_and_replaced_and_the_rest_of_an_edited_card_stays(checkpoint: Path) -> None:
    text = card(checkpoint, small_config()).replace("## Use", "My own words.\n\n## Use")
    rows = [CardScore("test, beam 5", "BLEU", 30.126, "nrefs:1|case:mixed"), CardScore("test, beam 5", "chrF2", 50)]
    once = with_scores(text, rows)
    added = "| test, beam 5 | BLEU | 30.13 | `nrefs:1\\|case:mixed` |\n| test, beam 5 | chrF2 | 50.00 |  |\n"
    assert added in once
    assert once.replace(added, "") == text
    again = with_scores(once, [CardScore("test, beam 5", "BLEU", 31.0)])
    assert again == once.replace("30.13 | `nrefs:1\\|case:mixed`", "31.00 | ")
    without = with_scores("# Mine\n", rows[:1])
    assert without.splitlines()[:5] == ["# Mine", "", "## Scores", "", SCORES_TABLE[0]]


def test_a_signature_is_that_of_a_score_with_one_reference() -> None:
    scores = corpus_scores(REFERENCES, SOURCES)
    assert {name: signature(name) for name in ("bleu", "chrf", "ter")} == {
        name: score.signature for name, score in scores.items()
    }


def test_every_kind_of_corpus_has_a_name() -> None:
    config = parse_saved_config(HUGGING_FACE, "test.yaml")
    train_corpora: list[Any] = config.data.train  # type: ignore[attr-defined]
    assert all(corpus_names(corpus) for corpus in train_corpora)
    assert [hub_data_set(corpus) for corpus in train_corpora] == [None, None, "wmt/wmt14", None, None]


@pytest.mark.usefixtures("threads_and_generators_as_they_were")
def test_training_writes_a_card_and_evaluation_adds_to_it(tmp_path: Path, call: Call) -> None:
    for name, lines in (("a.de", SOURCES), ("a.en", REFERENCES)):
        (tmp_path / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    pair = f"{{source: {tmp_path}/a.de, target: {tmp_path}/a.en}}"
    text = f"""
run: {tmp_path}/run
data:
  source_language: de
  target_language: en
  train: {pair}
  validation: {pair}
  test: {{mine: {pair}}}
tokenizer: {{vocabulary_size: 96}}
model: {{embedding_size: 16, encoder: {{hidden_size: 16}}, decoder: {{hidden_size: 16}}}}
training: {{max_steps: 2, max_epochs: null}}
runtime: {{device: cpu, threads: 1}}
"""
    (tmp_path / "config.yaml").write_text(text, encoding="utf-8")
    assert call(train.main, "--config", tmp_path / "config.yaml").code == 0
    folder = find(tmp_path / "run")
    written = (folder / CARD_FILE).read_text(encoding="utf-8")
    assert "- `a.de`, `a.en`: 6 sentence pairs" in written
    assert str(tmp_path) not in written
    bleu = read_metadata(folder).metrics["bleu"]
    signature_cell = signature("bleu").replace("|", "\\|")
    assert f"| validation, first 500 sentences, beam 1 | BLEU | {bleu:.2f} | `{signature_cell}` |" in written
    machine = ("--device", "cpu", "--threads", "1")
    (folder / CARD_FILE).write_text(written + "\nedited\n", encoding="utf-8")
    command = ("--model", tmp_path / "run", "--samples", "0", "--card", "--beam-size", "2", *machine)
    assert call(evaluate.main, *command).code == 0
    after = (folder / CARD_FILE).read_text(encoding="utf-8")
    assert "| mine, beam 2 | BLEU | " in after
    assert after.endswith("edited\n")
    load_model_files(folder)
    # A checkpoint of an earlier version has no card yet.
    (folder / CARD_FILE).unlink()
    assert call(evaluate.main, *command, "--metrics", "bleu").code == 0
    once = [line for line in after.splitlines() if line not in ("edited", "") and "chrF2 |" not in line]
    again = [line for line in (folder / CARD_FILE).read_text(encoding="utf-8").splitlines() if line]
    assert [line for line in again if "chrF2 |" not in line] == [line for line in once if "| TER |" not in line]
    integers = tmp_path / "integers"
    assert call(quantize.main, "--model", tmp_path / "run", "--output", integers).code == 0
    assert "8-bit integers; the scores" in (integers / CARD_FILE).read_text(encoding="utf-8")


def test_a_card_is_of_one_model(checkpoint: Path, call: Call) -> None:
    ended = call(evaluate.main, "--model", checkpoint, "--model", checkpoint, "--card")
    assert ended.code == 2
    assert ended.errors.endswith("--card is for the scores of one model; leave out --tune, and name one --model\n")
