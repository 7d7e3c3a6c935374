"""Raw text in, raw text out: order, batches, windows, blank and long lines, ensembles."""

from __future__ import annotations

import dataclasses
import json
import math
import random
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from nmt.checkpoint import Origin, Snapshot, saved_tensors, write_checkpoint
from nmt.cli.translate import render_json, render_text
from nmt.config.schema import SearchConfig
from nmt.data.batching.plan import length_batches
from nmt.data.readers.files import line_windows
from nmt.data.tokenizer import TokenizerPair, learn
from nmt.errors import CheckpointError, ConfigError, DataError, NmtError
from nmt.tasks.translation.loading import System, TrainedModel, build_system, load_ensemble, load_model
from nmt.tasks.translation.text_translation import (
    Request,
    Translation,
    encode_lines,
    translate_lines,
    translate_stream,
)
from tests.support.models import CPU, REFERENCES, SOURCES, save_small, small_config, small_translator

SEARCH = SearchConfig(beam_size=3)
ALL_AT_ONCE, ONE_BY_ONE = SearchConfig(beam_size=3, batch_tokens=10_000), SearchConfig(beam_size=3, batch_tokens=1)
LINES = [SOURCES[4], "", SOURCES[0], "   ", SOURCES[2], SOURCES[3], SOURCES[1], "\t", SOURCES[5], "ein hund ."]


def texts(found: list[list[Translation]]) -> list[str]:
    return [translations[0].text if translations else "" for translations in found]


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records]


def test_a_config_of_a_huge_network_is_refused_without_taking_its_memory(
    tmp_path: Path, model: TrainedModel, tokenizers: TokenizerPair
) -> None:
    size = 65_536
    encoder = model.config.model.encoder.model_copy(update={"hidden_size": size, "layers": 50})
    huge = model.config.model_copy(update={"model": model.config.model.model_copy(update={"encoder": encoder})})
    weights = saved_tensors(model.translator)
    write_checkpoint(tmp_path / "huge", Snapshot(weights, huge, tokenizers, Origin(step=1, epoch=0)))
    with pytest.raises(CheckpointError, match=r"has the shape \(\d+, 16\), config and vocabulary ask for"):
        load_model(tmp_path / "huge", None, CPU)


# Order and batches


def test_it_says_what_it_has_learned(system: System) -> None:
    assert texts(translate_lines(system, SOURCES, SEARCH)) == REFERENCES


def test_lines_keep_their_order_and_blanks_stay_blank(system: System) -> None:
    alone = {line: texts(translate_lines(system, [line], SEARCH))[0] for line in LINES}
    assert len(set(alone.values())) == 8
    for seed in range(3):
        shuffled = random.Random(seed).sample(LINES, len(LINES))
        for search in (SEARCH, ALL_AT_ONCE, ONE_BY_ONE):
            assert texts(translate_lines(system, shuffled, search)) == [alone[line] for line in shuffled]


def test_the_model_does_not_see_blank_lines(system: System) -> None:
    seen = []
    handle = system.translators[0].encoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[1].tolist()))
    with handle:
        assert translate_lines(system, ["", " ", "\u00a0", "\t"], SEARCH) == [[], [], [], []]
        assert seen == []
        translate_lines(system, ["", "hund .", ""], SEARCH)
        assert [len(lengths) for lengths in seen] == [1]


def test_batches_hold_every_row_once_within_their_bound() -> None:
    lengths = np.random.default_rng(1).integers(0, 30, 200).tolist()
    plan = list(length_batches(lengths, 100))
    assert sorted(row for rows in plan for row in rows) == [row for row, length in enumerate(lengths) if length]
    assert all(len(rows) * (max(lengths[row] for row in rows) + 1) <= 100 for rows in plan)
    flat = [lengths[row] for rows in plan for row in rows]
    assert flat == sorted(flat, reverse=True)
    assert list(length_batches([500, 3], 100)) == [[0], [1]]
    for world in (2, 3):
        shares = [list(length_batches(lengths, 100, rank, world)) for rank in range(world)]
        assert [shares[number % world][number // world] for number in range(len(plan))] == plan


def test_sampling_depends_on_the_seed_and_the_line_alone(system: System) -> None:
    search = SearchConfig(kind="sampling", temperature=2.0)
    together = translate_lines(system, SOURCES, search, Request(seed=7))
    later = translate_lines(system, SOURCES[2:], search, Request(seed=7), first_line=3)
    assert texts(later) == texts(together)[2:]
    assert texts(translate_lines(system, SOURCES, search, Request(seed=8))) != texts(together)


def test_translating_leaves_the_random_generators_alone(system: System, checkpoint: Path) -> None:
    before = torch.get_rng_state()
    translate_lines(system, SOURCES, SearchConfig(kind="sampling"))
    load_model(checkpoint, None, CPU)
    assert torch.equal(torch.get_rng_state(), before)


# Results


def test_scores_and_pieces_belong_to_the_text(system: System) -> None:
    for line, translations in zip(SOURCES, translate_lines(system, SOURCES, SEARCH, Request(n_best=3)), strict=True):
        scores = [translation.score for translation in translations]
        assert scores == sorted(scores, reverse=True)
        for translation in translations:
            assert "".join(translation.pieces).replace("▁", " ").strip() == translation.text
            assert "".join(translation.source_pieces).replace("▁", " ").strip() == line
            assert len(translation.piece_log_probabilities) == len(translation.pieces) + 1
            assert sum(translation.piece_log_probabilities) == pytest.approx(translation.log_probability, abs=1e-4)
            assert translation.attention is None


def test_attention_has_a_row_a_piece_and_sums_to_one(system: System) -> None:
    ((best, *_),) = translate_lines(system, SOURCES[:1], SEARCH, Request(attention=True))
    assert best.attention is not None
    assert best.attention.shape == (len(best.pieces) + 1, len(best.source_pieces) + 1)
    assert np.allclose(best.attention.sum(1), 1.0, atol=1e-5)


def test_a_prefix_is_kept(system: System) -> None:
    prefixes = ["two women", "", "a child"]
    found = texts(translate_lines(system, [SOURCES[0], SOURCES[1], ""], SEARCH, prefixes=prefixes))
    assert found[0].startswith("two women")
    assert found[1:] == [REFERENCES[1], ""]


def test_a_line_end_in_the_translation_stays_one_line(tokenizers: TokenizerPair) -> None:
    options = small_config().tokenizer.model_copy(update={"byte_fallback": True, "vocabulary_size": 400})
    pairs = learn(options, lambda: list(zip(SOURCES, REFERENCES, strict=True)), seed=1)
    line_end = pairs.target.pieces(range(pairs.target.size)).index("<0x0A>")
    assert pairs.target.decode([[line_end]]) == ["\n"]
    translator = small_translator(small_config(), pairs, seed=1, updates=0)
    with torch.no_grad():
        translator.projection.bias[line_end] = 100.0
    system = System((translator,), pairs, CPU)
    ((best,),) = translate_lines(
        system, ["hund"], SearchConfig(kind="greedy", max_length_ratio=0.1, max_length_offset=3)
    )
    assert best.pieces == ("<0x0A>",) * 3
    assert best.text == "   "


# Long lines and small memories


def test_a_long_line_is_cut_off_with_a_warning_or_translated_whole(
    system: System, caplog: pytest.LogCaptureFixture
) -> None:
    long = " ".join(SOURCES)
    pieces = len(system.tokenizers.source.encode([long])[0])
    cut, whole = (
        translate_lines(system, ["hund", long], SEARCH, Request(max_length=limit), first_line=41)[1][0]
        for limit in (9, None)
    )
    assert cut.source_pieces == whole.source_pieces[:9]
    assert len(whole.source_pieces) == pieces
    assert warnings_of(caplog) == [f"line 42: truncated to 9 of its {pieces} pieces"]


@pytest.mark.parametrize("fill", ["hund ", "hund", " "])
def test_only_the_beginning_of_a_very_long_line_is_tokenized(
    system: System, caplog: pytest.LogCaptureFixture, fill: str
) -> None:
    tokenizer = system.tokenizers.source
    long = fill * 20_000 + " ".join(SOURCES)
    texts, [ids] = encode_lines(tokenizer, [long], 9, [41])
    assert ids == tokenizer.encode([long])[0][:9]
    spaces = not fill.strip()
    assert (texts[0] == long) == spaces, "spaces become one piece, so the line has to be read on"
    if not spaces:
        assert warnings_of(caplog) == [f"line 41: truncated to 9 pieces; it has {len(long):,} characters"]


def test_a_line_of_a_million_characters_costs_no_more_than_its_beginning(system: System) -> None:
    started = time.perf_counter()
    [found] = translate_lines(system, ["hund" * 250_000], SEARCH, Request(max_length=9, attention=True))
    assert len(found[0].source_pieces) == len(found[0].source_words) == 9
    assert time.perf_counter() - started < 1.5


@pytest.fixture
def narrow(system: System) -> Iterator[System]:
    """A device on which more than two sentences at once run out of memory."""

    def refuse(_: object, inputs: tuple[torch.Tensor, ...]) -> None:
        if len(inputs[0]) > 2 or inputs[0].shape[1] > 40:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    with system.translators[0].encoder.register_forward_pre_hook(refuse):
        yield system


def test_a_batch_that_is_too_large_is_done_in_parts(narrow: System, caplog: pytest.LogCaptureFixture) -> None:
    assert texts(translate_lines(narrow, SOURCES, ALL_AT_ONCE)) == REFERENCES
    assert warnings_of(caplog)[0].startswith("out of memory with 6 sentences at once")
    assert len(caplog.records) == 3


def test_a_line_that_is_too_large_is_named(narrow: System) -> None:
    with pytest.raises(NmtError, match=r"^line 12: out of memory on cpu .* with a beam of 3; use a smaller beam"):
        translate_lines(narrow, ["hund", "", " ".join(SOURCES)], SEARCH, first_line=10)


def test_other_faults_are_not_taken_for_small_memory(system: System) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with system.translators[0].encoder.register_forward_pre_hook(fail), pytest.raises(RuntimeError, match="mat1"):
        translate_lines(system, SOURCES, SEARCH)


# Layout

BEST = Translation("der Hund", -0.25, -0.5, ("▁der", "▁Hund"), (-0.25, -0.25, -0.0), ("▁the", "▁do", "g"))
SECOND = dataclasses.replace(BEST, text="ein Hund", score=-1.0)
ALIGNED = dataclasses.replace(
    BEST,
    attention=np.array([[0.9, 0.1, 0, 0], [0, 0, 0.9, 0.1], [0, 0, 0, 1.0]]),
    source_words=(0, 1, 1),
    words=(0, 1),
)


def test_text_layouts() -> None:
    assert render_text(3, "the dog", [BEST]) == "der Hund\n"
    assert render_text(3, "", []) == "\n"
    assert render_text(3, "the dog", [BEST], scores=True) == "der Hund ||| -0.2500\n"
    assert render_text(3, "the dog", [ALIGNED], unit="pieces") == "der Hund ||| 0-0 2-1\n"
    assert render_text(3, "", [ALIGNED], unit="words", scores=True) == "der Hund ||| -0.2500 ||| 0-0 1-1\n"
    both = render_text(3, "the dog", [BEST, SECOND], n_best=2)
    assert both == "2 ||| der Hund ||| -0.2500\n2 ||| ein Hund ||| -1.0000\n"
    assert render_text(1, "", [], n_best=2) == "0 ||| \n"


def test_json_layout() -> None:
    text = render_json(3, "the\u2028dog", [ALIGNED, SECOND])
    assert text.endswith("}\n")
    assert text.count("\n") == 1
    content = json.loads(text)
    assert (content["line"], content["source"], content["translation"]) == (3, "the\u2028dog", "der Hund")
    assert [hypothesis["text"] for hypothesis in content["hypotheses"]] == ["der Hund", "ein Hund"]
    assert content["hypotheses"][0]["alignments"] == {"pieces": "0-0 2-1", "words": "0-0 1-1"}
    assert content["hypotheses"][1]["alignments"] is None
    assert json.loads(render_json(1, "", []))["hypotheses"] == []


# Streams


@pytest.mark.parametrize("size", [1, 3, 100])
def test_windows_change_nothing(system: System, size: int) -> None:
    done: list[int] = []
    parts = list(translate_stream(system, iter(LINES), SEARCH, window=size, advance=done.append))
    assert len(parts) == math.ceil(len(LINES) / size)
    assert sum(done) == len(LINES)
    assert [each for part in parts for each in texts(part.translations)] == texts(
        translate_lines(system, LINES, SEARCH)
    )


def test_lines_before_a_mistake_are_still_given() -> None:
    def lines() -> Iterator[str]:
        yield from "abcde"
        raise DataError("standard input:6: not UTF-8")

    found = line_windows(lines(), 3)
    assert [next(found), next(found)] == [["a", "b", "c"], ["d", "e"]]
    with pytest.raises(DataError, match="standard input:6"):
        next(found)
    assert list(line_windows([], 3)) == []


@pytest.mark.parametrize(
    ("prefixes", "message"),
    [(["a"], "p.txt: has 1 lines, fewer than the input"), (["", "", "", ""], "p.txt: has more lines than the input")],
)
def test_prefixes_go_line_by_line(system: System, prefixes: list[str], message: str) -> None:
    stream = translate_stream(system, SOURCES[:3], SEARCH, window=1, prefixes=("p.txt", iter(prefixes)))
    given = []
    with pytest.raises(DataError, match=message):
        given.extend(stream)
    assert len(given) == min(len(prefixes), 3)


# Models


def test_a_tied_translator_is_loaded_as_it_was_saved(tmp_path: Path, tokenizers: TokenizerPair) -> None:
    original = small_translator(small_config(), tokenizers, seed=5, updates=1)
    loaded = load_model(save_small(tmp_path / "m", tokenizers, seed=5, updates=1), None, CPU).translator
    assert loaded.projection.weight is loaded.decoder.embedding.table.weight
    assert not loaded.training
    for (name, mine), (_, other) in zip(original.named_parameters(), loaded.named_parameters(), strict=True):
        assert torch.equal(mine, other), name


def test_a_folder_translates_when_copied_alone(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = shutil.copytree(checkpoint, tmp_path / "elsewhere" / "copy")
    monkeypatch.chdir(tmp_path)
    model = load_model("elsewhere/copy", None, CPU)
    assert model.path == Path("elsewhere/copy")
    assert texts(translate_lines(build_system([model], CPU), SOURCES, model.config.search)) == REFERENCES
    assert copy.name == "copy"


def test_an_ensemble_of_one_model_with_itself_is_that_model(model: TrainedModel) -> None:
    once, twice = (translate_lines(build_system([model] * times, CPU), SOURCES, SEARCH) for times in (1, 2))
    assert texts(once) == texts(twice)
    for (alone, *_), (doubled, *_) in zip(once, twice, strict=True):
        assert doubled.log_probability == pytest.approx(alone.log_probability, abs=1e-4)


def test_an_ensemble_shares_its_tokenizers(checkpoint: Path, tmp_path: Path, tokenizers: TokenizerPair) -> None:
    friend = save_small(tmp_path / "friend", tokenizers, seed=2, updates=0)
    assert len(load_ensemble([checkpoint, friend], None, CPU)) == 2
    options = small_config().tokenizer.model_copy(update={"vocabulary_size": 90})
    others = learn(options, lambda: list(zip(SOURCES, REFERENCES, strict=True)), seed=1)
    stranger = save_small(tmp_path / "stranger", others, seed=2, updates=0)
    with pytest.raises(CheckpointError) as caught:
        load_ensemble([checkpoint, friend, stranger], None, CPU)
    assert str(caught.value).startswith(f"{stranger}: has another tokenizer than {checkpoint}")


@pytest.mark.parametrize("preset", ["bahdanau2015", "sutskever2014", "cho2014"])
def test_every_preset_translates(preset: str, tmp_path: Path, tokenizers: TokenizerPair) -> None:
    model = load_model(save_small(tmp_path / "m", tokenizers, attention=preset, updates=0), None, CPU)
    ((best, *_),) = translate_lines(build_system([model], CPU), SOURCES[:1], SEARCH, Request(attention=True))
    assert (best.attention is not None) == model.has_attention == (preset == "bahdanau2015")


def test_a_coverage_penalty_without_attention_is_a_mistake_of_the_config() -> None:
    with pytest.raises(ConfigError, match=r"^small.yaml:\d+: search.coverage_penalty: needs attention"):
        small_config("sutskever2014", coverage_penalty=0.2)
