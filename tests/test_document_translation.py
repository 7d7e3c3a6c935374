"""Translation of documents: sentence by sentence, independent of other documents, and from files."""

from __future__ import annotations

import itertools
import json
import pickle
import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nmt.checkpoint import Origin, Snapshot, saved_tensors, write_checkpoint
from nmt.cli import evaluate, translate
from nmt.config import TranslationConfig
from nmt.config.schema import SearchConfig
from nmt.data.batching import Batch, DocumentContext
from nmt.data.batching.document_context import add_context, group_by_document, sentences_before
from nmt.data.batching.pair_batches import collate
from nmt.data.cache import document_positions, flatten
from nmt.data.readers.files import line_windows
from nmt.data.tokenizer import TokenizerPair
from nmt.errors import DataError
from nmt.evaluation.testsets import TestSet, from_files
from nmt.kernels.select import reference_kernels
from nmt.model.translator import Translator, forced_readout
from nmt.runtime import is_out_of_memory
from nmt.runtime.worker_pool import WorkerPool
from nmt.tasks.components import parse_saved_config
from nmt.tasks.translation import text_translation as translating
from nmt.tasks.translation.evaluation import evaluate as measure
from nmt.tasks.translation.forced_decoding import forced_attention_of_ids, forced_loss
from nmt.tasks.translation.loading import System, build_system, load_model, vocabulary
from nmt.tasks.translation.text_translation import Request, Translation, number_documents, translate_lines
from nmt.training.objectives import TranslationObjective
from tests.support.commands import Call
from tests.support.models import CPU, REFERENCES, SOURCES, save_small

CONFIG = """\
run: runs/context
data:
  source_language: de
  target_language: en
  train: {{source: train.de, target: train.en, documents: blank_lines}}
  validation: {{source: valid.de, target: valid.en, documents: blank_lines}}
  test: {tests}
tokenizer: {{vocabulary_size: 96}}
model:
  embedding_size: 16
  encoder: {{hidden_size: 16}}
  decoder: {{hidden_size: 24}}
  dropout: {{embedding: 0.0, layer: 0.0, output: 0.0}}
  context: {{{context}, past: 2}}
search: {{beam_size: 3}}
"""
CONTEXTS = {f"hierarchical-{where}": f"kind: hierarchical, where: {where}" for where in ("encoder", "decoder", "both")}
CONTEXTS["summary"] = "kind: summary, hidden_size: 8"
SEARCH = SearchConfig(beam_size=3)
LINES = [SOURCES[number] for number in (0, 1, 2, 3, 4, 5, 1, 0, 3, 2, 5, 4)]
TARGETS = [REFERENCES[number] for number in (0, 1, 2, 3, 4, 5, 1, 0, 3, 2, 5, 4)]
DOCUMENTS = [0, 0, 0, 1, 2, 2, 2, 2, 3, 3, 4, 4]


def config(context: str, tests: str = "{}") -> TranslationConfig:
    return parse_saved_config(CONFIG.format(context=CONTEXTS[context], tests=tests), "context.yaml")


def batch_of(tokenizers: TokenizerPair, document_context: DocumentContext | None) -> Batch:
    """All lines and their references, with all that is read before them."""
    source, target = tokenizers.source.encode(LINES), tokenizers.target.encode(TARGETS)
    before = sentences_before(DOCUMENTS, np.asarray([len(ids) for ids in source]))
    read = add_context(np.arange(len(LINES)), before, document_context)
    return collate(
        flatten([source[row] for row in read.rows]),
        flatten([target[row] for row in read.rows[: read.translated]]),
        np.arange(len(LINES)),
        tokenizers,
        context=read.context,
    )


def save(folder: Path, context: str, tokenizers: TokenizerPair, tests: str = "{}", updates: int = 30) -> Path:
    """A model that has learned some of the sentences by heart, with context that matters a little."""
    torch.manual_seed(1)
    chosen = config(context, tests)
    model = Translator(chosen.model, vocabulary(tokenizers), reference_kernels())
    with torch.no_grad():
        for parameter in model.context.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
        for name, parameter in model.context.named_parameters():
            if name.endswith("gate_state.bias"):
                parameter.zero_()
    batch = batch_of(tokenizers, model.context.document_context)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    objective = TranslationObjective(model, 0.0)
    for _ in range(updates):
        optimizer.zero_grad()
        (objective(batch).trained[0] / batch.target_tokens).backward()
        optimizer.step()
    weights = saved_tensors(model)
    write_checkpoint(folder, Snapshot(weights, chosen, tokenizers, Origin(step=1, epoch=0)))
    return folder


@pytest.fixture(scope="module", params=CONTEXTS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, tokenizers: TokenizerPair) -> Path:
    return save(tmp_path_factory.mktemp("context") / request.param, request.param, tokenizers)


@pytest.fixture(scope="module")
def context(folder: Path) -> System:
    return build_system([load_model(folder, None, CPU)], CPU)


def texts(found: list[list[Translation]]) -> list[str]:
    return [translations[0].text if translations else "" for translations in found]


def scores(found: list[list[Translation]]) -> list[float]:
    return [translations[0].log_probability for translations in found]


# Where documents end


def test_places_and_what_stands_before_by_hand() -> None:
    assert document_positions([7, 7, 3, 3, 3, 7]).tolist() == [0, 1, 0, 1, 2, 0]
    assert document_positions([]).tolist() == []
    before = sentences_before([7, 7, 3, 3, 3, 7], np.array([1, 1, 0, 2, 2, 1]))
    assert before(np.array([-1, 0, 1, 2, 3, 4, 5])).tolist() == [-1, -1, 0, -1, -1, 3, -1]
    before = sentences_before([1, 1, 1, 1], np.array([2, 0, 0, 2]))
    assert before(np.arange(4)).tolist() == [-1, 0, 0, 0]
    assert group_by_document("abcdef", [7, 7, 3, 3, 3, 7]) == [["a", "b"], ["c", "d", "e"], ["f"]]


def test_blank_lines_end_documents() -> None:
    lines = ["", "a", "b", " ", "", "c", "\t", "d"]
    numbers = number_documents(lines)
    by_document = [[line for line in group if line.strip()] for group in group_by_document(lines, numbers)]
    assert [group for group in by_document if group] == [["a", "b"], ["c"], ["d"]]


def test_windows_are_of_whole_documents() -> None:
    lines = ["a", "b", "", "c", "", "", "d", "e", "f", "", "g"]
    windows = partial(line_windows, whole_documents=True)
    assert list(windows(lines, 1)) == [["a", "b", ""], ["c", ""], [""], ["d", "e", "f", ""], ["g"]]
    assert list(windows(lines, 4)) == [["a", "b", "", "c", ""], ["", "d", "e", "f", ""], ["g"]]
    assert list(windows(lines, 100)) == [lines]
    assert list(windows([], 4)) == []

    def broken() -> itertools.chain[str]:
        def fail() -> str:
            raise DataError("broken")

        return itertools.chain(["a", "", "b"], (fail() for _ in range(1)))

    part = windows(broken(), 1)
    assert [next(part), next(part)] == [["a", ""], ["b"]]
    with pytest.raises(DataError, match="broken"):
        next(part)


# In turn


def test_translations_are_scored_as_training_sees_them(context: System, tokenizers: TokenizerPair) -> None:
    """Where a translation is the reference, and so are those before it: the search's score is that of the forced pass.

    What a document's sentences were told of those before, training tells them in one batch.
    """
    found = translate_lines(context, LINES, SEARCH, documents=DOCUMENTS)
    source = tokenizers.source.encode(LINES)
    target = [list(best[0].ids) for best in found]
    document_context = context.translators[0].context.document_context
    before = sentences_before(DOCUMENTS, np.asarray([len(ids) for ids in source]))
    read = add_context(np.arange(len(LINES)), before, document_context)
    batch = collate(flatten(source), flatten(target), np.arange(len(LINES)), tokenizers, context=read.context)
    model = context.translators[0]
    with torch.inference_mode():
        logits = torch.log_softmax(model.projection(forced_readout(model, batch).readout_BTR), -1)
    expected = [
        float(logits[row, : len(target[row]) + 1].gather(1, torch.tensor([*target[row], 3])[:, None]).sum())
        for row in range(len(LINES))
    ]
    assert scores(found) == pytest.approx(expected, abs=1e-4)
    alone = scores(translate_lines(context, LINES, SEARCH))
    first = document_positions(DOCUMENTS) == 0
    assert np.asarray(scores(found))[first] == pytest.approx(np.asarray(alone)[first], abs=1e-4)
    assert np.abs(np.asarray(scores(found)) - alone)[~first].max() > 0.05


def test_a_document_does_not_depend_on_the_others(context: System) -> None:
    """Alone, in any order, and in batches of any size."""
    lines, numbers = group_by_document(LINES, DOCUMENTS), sorted(set(DOCUMENTS))
    alone = [translate_lines(context, each, SEARCH, documents=[0] * len(each)) for each in lines]
    for seed, batch_tokens in ((0, 4096), (1, 30), (2, 1)):
        order = random.Random(seed).sample(numbers, len(numbers))
        together = translate_lines(
            context,
            [line for number in order for line in lines[number]],
            SearchConfig(beam_size=3, batch_tokens=batch_tokens),
            documents=[number for number in order for _ in lines[number]],
        )
        expected = [each for number in order for each in alone[number]]
        assert texts(together) == texts(expected)
        assert scores(together) == pytest.approx(scores(expected), abs=1e-4)


def test_a_shortlist_of_everything_changes_nothing(context: System) -> None:
    class Everything:
        def pieces(self, ids: list[int], frequent: int, candidates: int) -> np.ndarray:
            return np.arange(context.tokenizers.target.size)

    short = SearchConfig(**{**SEARCH.model_dump(), "shortlist": 1})
    found = translate_lines(replace(context, lexicon=Everything()), LINES, short, documents=DOCUMENTS)
    expected = translate_lines(context, LINES, SEARCH, documents=DOCUMENTS)
    assert texts(found) == texts(expected)
    assert scores(found) == pytest.approx(scores(expected), abs=1e-4)
    assert scores(expected) != pytest.approx(scores(translate_lines(context, LINES, SEARCH)), abs=1e-4)


def test_sentence_k_of_every_document_is_translated_together(context: System, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(translating, "SHARES", 1)
    seen: list[int] = []
    handle = context.translators[0].decoder.register_forward_pre_hook(lambda *_: None)
    translate_batch = translating.EncodedLines.translate

    def counted(
        task: translating.EncodedLines, system: System, rows: list[int], models: list[object]
    ) -> list[list[Translation]]:
        seen.append(len(rows))
        assert {document_positions(DOCUMENTS)[task.numbers[row] - 1] for row in rows} == {len(seen) - 1}
        return translate_batch(task, system, rows, models)

    monkeypatch.setattr(translating.EncodedLines, "translate", counted)
    with handle:
        translate_lines(context, LINES, SEARCH, documents=DOCUMENTS)
    assert seen == [5, 4, 2, 1]


def test_a_blank_line_is_passed_over(context: System) -> None:
    """It has no translation, and does not count as one of the sentences before."""
    plain = translate_lines(context, LINES[4:8], SEARCH, documents=[0] * 4)
    with_blanks = ["", LINES[4], " ", "", LINES[5], LINES[6], "\t", LINES[7], ""]
    found = translate_lines(context, with_blanks, SEARCH, documents=[0] * 9)
    assert [number for number, each in enumerate(found) if not each] == [0, 2, 3, 6, 8]
    assert scores([each for each in found if each]) == pytest.approx(scores(plain), abs=1e-4)


def test_it_looks_back_no_further_than_it_should(context: System) -> None:
    """With `past: 2` and both sides, a sentence knows four sources at most: the two before, and two before those."""
    reach = context.translators[0].context.document_context.reach
    lines = [LINES[number % 6] for number in range(reach + 3)]
    changed = [LINES[(number + 3) % 6] if number < 2 else line for number, line in enumerate(lines)]
    one, other = (
        scores(translate_lines(context, each, SEARCH, documents=[0] * len(each))) for each in (lines, changed)
    )
    assert one[-1] == pytest.approx(other[-1], abs=1e-5)
    assert one[2] != pytest.approx(other[2], abs=1e-5)


def test_running_out_of_memory_halves_the_documents(context: System, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = translate_lines(context, LINES, SEARCH, documents=DOCUMENTS)
    translate_batch = translating.EncodedLines.translate

    def tight(
        task: translating.EncodedLines, system: System, rows: list[int], models: list[object]
    ) -> list[list[Translation]]:
        if len(rows) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return translate_batch(task, system, rows, models)

    monkeypatch.setattr(translating, "SHARES", 1)
    monkeypatch.setattr(translating.EncodedLines, "translate", tight)
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    found = translate_lines(context, LINES, SEARCH, documents=DOCUMENTS)
    assert texts(found) == texts(expected)
    assert scores(found) == pytest.approx(scores(expected), abs=1e-4)


class Sent(WorkerPool):
    """Does every part with what would arrive in another process."""

    def run(self, system: object, parts: Sequence[Any], sentences: int) -> Iterator[tuple[int, Any]]:
        for number in reversed(range(len(parts))):
            yield number, pickle.loads(pickle.dumps(parts[number]))(system)


def test_processes_share_documents_out(context: System) -> None:
    expected = translate_lines(context, LINES, SEARCH, documents=DOCUMENTS)
    found = translate_lines(replace(context, pool=Sent(2)), LINES, SEARCH, documents=DOCUMENTS)
    assert found == expected


def test_sampling_and_prefixes_follow_the_lines(context: System) -> None:
    search = SearchConfig(kind="sampling")
    one, same = (
        translate_lines(context, LINES, search, Request(seed=5), documents=DOCUMENTS, first_line=3) for _ in range(2)
    )
    assert texts(one) == texts(same)
    assert texts(one) != texts(translate_lines(context, LINES, search, Request(seed=6), documents=DOCUMENTS))
    prefixes = ["the"] * len(LINES)
    found = translate_lines(context, LINES, SEARCH, documents=DOCUMENTS, prefixes=prefixes)
    assert all(text.startswith("the") for text in texts(found))


def test_without_documents_or_context_lines_are_translated_as_ever(context: System, system: System) -> None:
    assert translate_lines(context, LINES, SEARCH) == translate_lines(context, LINES, SEARCH)
    assert translate_lines(system, LINES, SEARCH, documents=DOCUMENTS) == translate_lines(system, LINES, SEARCH)


def test_an_ensemble_gives_each_its_own_past(folder: Path, checkpoint: Path, context: System) -> None:
    """With itself it says what it says alone; beside a model without context each does what it does."""
    model, plain = load_model(folder, None, CPU), load_model(checkpoint, None, CPU)
    alone = translate_lines(context, LINES, SEARCH, documents=DOCUMENTS)
    twice = translate_lines(build_system([model, model], CPU), LINES, SEARCH, documents=DOCUMENTS)
    assert texts(twice) == texts(alone)
    assert scores(twice) == pytest.approx(scores(alone), abs=1e-4)
    mixed = translate_lines(build_system([plain, model], CPU), LINES, SEARCH, documents=DOCUMENTS)
    assert len(mixed) == len(LINES)
    pair, single = (
        forced_loss(build_system(models, CPU), LINES, TARGETS, 200, DOCUMENTS) for models in ([model, model], [model])
    )
    assert pair.total == pytest.approx(single.total, rel=1e-5)


# Measuring


@pytest.mark.parametrize("batch_tokens", [1, 60, 4096])
def test_the_loss_of_references_is_the_objectives(
    context: System, tokenizers: TokenizerPair, batch_tokens: int
) -> None:
    """In one batch of all documents, whatever the batches in which it is measured."""
    batch = batch_of(tokenizers, context.translators[0].context.document_context)
    with torch.inference_mode():
        expected = float(TranslationObjective(context.translators[0], 0.0)(batch).logged[0])
    found = forced_loss(context, LINES, TARGETS, batch_tokens, DOCUMENTS)
    assert found.total == pytest.approx(expected, rel=1e-5)
    assert found.pieces == batch.target_tokens
    alone = forced_loss(context, LINES, TARGETS, batch_tokens)
    assert abs(alone.total - expected) > 1e-2


def test_looks_are_those_of_documents(context: System, tokenizers: TokenizerPair) -> None:
    ids = [side.encode(text) for side, text in ((tokenizers.source, LINES), (tokenizers.target, TARGETS))]
    looks = forced_attention_of_ids(context, *ids, 100, documents=DOCUMENTS)
    total = forced_loss(context, LINES, TARGETS, 100, DOCUMENTS).total
    assert -sum(each.log_probability for each in looks) == pytest.approx(total, rel=1e-5)
    assert [each.source for each in looks] == tokenizers.source.decode(ids[0])


def test_a_part_of_a_validation_text_is_translated_in_its_documents(context: System) -> None:
    found = measure(
        context,
        TestSet("lines", LINES, [TARGETS], DOCUMENTS),
        SEARCH,
        metrics=("bleu",),
        sentences=6,
        samples=20,
    )
    assert found.hypotheses == texts(translate_lines(context, LINES, SEARCH, documents=DOCUMENTS))[:6]
    assert found.loss.total == forced_loss(context, LINES, TARGETS, SEARCH.batch_tokens, DOCUMENTS).total
    assert found.scores["bleu"].signature.endswith("bs.unit:document")


# Files and commands


def split(lines: list[str]) -> str:
    """The lines with blank ones between documents."""
    return "\n\n".join("\n".join(group) for group in group_by_document(lines, DOCUMENTS)) + "\n"


def test_documents_in_documents_out(call: Call, folder: Path, context: System) -> None:
    expected = texts(translate_lines(context, LINES, SEARCH, documents=DOCUMENTS))
    ended = call(translate.main, "--model", folder, "--documents", stdin=split(LINES).encode())
    assert (ended.code, ended.output, ended.errors) == (0, split(expected), "")
    # Blank lines come back where they stood, however many there are; a window holds whole documents.
    text = "\n" + split(LINES).replace("\n\n", "\n \n\n")
    ended = call(translate.main, "--model", folder, "--documents", "--window", 2, stdin=text.encode())
    assert ended.output == "\n" + split(expected).replace("\n\n", "\n\n\n")


def test_each_line_alone_is_said_to_be_so(call: Call, folder: Path, context: System) -> None:
    ended = call(translate.main, "--model", folder, stdin="\n".join(LINES).encode())
    assert ended.output.splitlines() == texts(translate_lines(context, LINES, SEARCH))
    assert "without --documents every line stands alone" in ended.errors


def test_objects_and_prefixes_keep_their_lines(call: Call, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "prefixes").write_text(split(["the"] * len(LINES)))
    ended = call(
        translate.main,
        *("--model", folder, "--documents", "--format", "jsonl", "--prefixes", tmp_path / "prefixes"),
        stdin=split(LINES).encode(),
    )
    objects = [json.loads(line) for line in ended.output.splitlines()]
    assert [each["source"] for each in objects] == split(LINES).splitlines()
    assert all(each["translation"].startswith("the") == bool(each["source"]) for each in objects)


def test_a_page_of_documents(call: Call, folder: Path, checkpoint: Path, tmp_path: Path) -> None:
    ended = call(
        translate.main,
        *("--model", folder, "--documents", "--plot", tmp_path / "page.html", "--plot-beside", checkpoint),
        stdin=split(LINES).encode(),
    )
    assert ended.code == 0, ended.errors
    assert (tmp_path / "page.html").read_text().count("log_probability") >= 0


@pytest.fixture
def files(tmp_path: Path) -> Path:
    for suffix, lines in (("de", LINES), ("en", TARGETS)):
        (tmp_path / f"split.{suffix}").write_text(split(lines))
        (tmp_path / f"plain.{suffix}").write_text("\n".join(lines) + "\n")
    (tmp_path / "plain.docid").write_text("".join(f"{number}\tx\n" for number in DOCUMENTS))
    return tmp_path


def test_evaluation_keeps_documents(call: Call, folder: Path, files: Path, context: System) -> None:
    """By blank lines, by a file of names, and from the config; what is kept has the blank lines of its source."""
    expected = texts(translate_lines(context, LINES, SEARCH, documents=DOCUMENTS))
    loss = forced_loss(context, LINES, TARGETS, 4096, DOCUMENTS).per_piece
    common = ("--model", folder, "--samples", 20, "--json", "--metrics", "chrf", "--output", files / "out")
    for name, documents in (("split", ("--documents",)), ("plain", ("--documents", files / "plain.docid"))):
        ended = call(
            evaluate.main, *common, "--source", files / f"{name}.de", "--reference", files / f"{name}.en", *documents
        )
        assert ended.code == 0, ended.errors
        (found,) = json.loads(ended.output)["sets"]
        assert (found["sentences"], found["documents"]) == (12, 5)
        assert found["loss"] == pytest.approx(loss, rel=1e-4)
        assert found["scores"]["chrf"]["signature"].endswith("bs.unit:document")
        assert (files / "out").read_text() == (split(expected) if name == "split" else "\n".join(expected) + "\n")


def test_a_baseline_with_or_without_blank_lines(call: Call, folder: Path, files: Path) -> None:
    reference = ("--source", files / "split.de", "--reference", files / "split.en", "--documents")
    found = []
    for name in ("split", "plain"):
        ended = call(
            evaluate.main,
            *("--model", folder, "--samples", 20, "--baseline", files / f"{name}.en", *reference, "--metrics", "chrf"),
        )
        assert ended.code == 0, ended.errors
        assert "12 sentences in 5 documents" in ended.output
        assert "by paired bootstrap over documents" in ended.output
        found.append(ended.output.replace("split.en", "").replace("plain.en", ""))
    assert found[0] == found[1]


def test_test_sets_of_a_config_have_their_documents(
    call: Call, files: Path, tokenizers: TokenizerPair, tmp_path: Path
) -> None:
    tests = (
        f"{{named: {{source: {files}/plain.de, target: {files}/plain.en, documents: {files}/plain.docid}}, "
        f"split: {{source: {files}/split.de, target: {files}/split.en, documents: blank_lines}}, "
        f"none: {{source: {files}/plain.de, target: {files}/plain.en}}}}"
    )
    saved = save(tmp_path / "saved", "hierarchical-both", tokenizers, tests)
    ended = call(evaluate.main, "--model", saved, "--samples", 0, "--json", "--output", files / "out")
    sets = json.loads(ended.output)["sets"]
    assert [each["documents"] for each in sets] == [5, 5, None]
    assert sets[0]["loss"] == pytest.approx(sets[1]["loss"])
    assert sets[0]["loss"] != pytest.approx(sets[2]["loss"], abs=1e-4)
    assert "none has no documents: every sentence stands alone" in ended.errors
    assert "split has no" not in ended.errors
    assert (files / "out" / "split.en").read_text().count("\n\n") == 4


def test_mistakes_of_documents_are_said(call: Call, folder: Path, files: Path) -> None:
    (files / "short.docid").write_text("1\n1\n")
    source = ("--source", files / "plain.de", "--reference", files / "plain.en")
    ended = call(evaluate.main, "--model", folder, *source, "--documents", files / "short.docid")
    assert (ended.code, ended.output) == (2, "")
    assert f"{files}/short.docid has 2" in ended.errors
    ended = call(evaluate.main, "--model", folder, *source, "--documents", files / "no.docid")
    assert ended.errors == f"{files}/no.docid: no such file\n"
    ended = call(evaluate.main, "--model", folder, "--documents")
    assert ended.errors.startswith("nmt-eval: --documents goes with --source")
    (files / "odd.en").write_text(split(TARGETS).replace("\n\n", "\nx\n", 1))
    ended = call(
        evaluate.main, "--model", folder, "--source", files / "split.de", "--reference", files / "odd.en", "--documents"
    )
    assert ended.errors.startswith(f"{files}/split.de:4: is blank, which ends a document, but the target is not")


def test_several_references_have_the_same_documents(files: Path) -> None:
    (files / "other.en").write_text(split([f"{line} x" for line in TARGETS]))
    found = from_files(str(files / "split.de"), [str(files / "split.en"), str(files / "other.en")], "blank_lines")
    assert found.documents == DOCUMENTS
    assert [side[0] for side in found.references] == [TARGETS[0], f"{TARGETS[0]} x"]


def test_lines_of_a_set_and_back() -> None:
    found = TestSet("x", ["a", "b", "c"], [["A", "B", "C"]], [0, 0, 1], is_split=True)
    assert found.lines_of(["1", "", "3"]) == ["1", "", "", "3"]
    assert found.sentences_of(["1", "", "", "3"]) == ["1", "", "3"]
    assert found.sentences_of(["1", "", "3"]) == ["1", "", "3"]
    assert len(found.sentences_of(["1", "2", "x", "3"])) == 4
    plain = TestSet("x", ["a", "b", "c"], [["A", "B", "C"]], [0, 0, 1])
    assert plain.lines_of(["1", "", "3"]) == ["1", "", "3"]


def test_a_model_without_context_may_be_given_documents(
    call: Call, files: Path, tmp_path: Path, tokenizers: TokenizerPair
) -> None:
    plain = save_small(tmp_path / "plain", tokenizers)
    ended = call(translate.main, "--model", plain, "--documents", stdin=split(LINES).encode())
    assert (ended.code, ended.errors) == (0, "")
    assert ended.output == split([line.strip() for line in ended.output.splitlines() if line.strip()])
