"""Sentences of paragraphs, and paragraphs that are put together again; nmt-translate --split-sentences."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nmt.cli import translate
from nmt.data import sentences
from nmt.data.sentences import Paragraph, Splitter, lines_as_sentences, space_between
from nmt.tasks.translation.loading import System, TrainedModel
from nmt.tasks.translation.paragraph_translation import paragraph_stream, translate_paragraphs
from nmt.tasks.translation.text_translation import Request, translate_lines
from tests.support.commands import Call
from tests.support.models import SOURCES

pytest.importorskip("sentencex")


@pytest.mark.parametrize(
    ("language", "text", "sentences", "spaces"),
    [
        ("en", "One is here. Two is there.", ["One is here.", "Two is there."], ["", " ", ""]),
        ("en", "  One is here.\tTwo  is there.   Three. \t", ["One is here.", "Two  is there.", "Three."],
         ["  ", "\t", "   ", " \t"]),
        ("en", "Dr. Miller came at 3 p.m. on Monday. He left.", ["Dr. Miller came at 3 p.m. on Monday.", "He left."],
         ["", " ", ""]),
        ("de", "Das ist z.B. gut. Am 3. Mai kam er.", ["Das ist z.B. gut.", "Am 3. Mai kam er."], ["", " ", ""]),
        ("zh", "你好。我很好！谢谢。", ["你好。", "我很好！", "谢谢。"], ["", "", "", ""]),
        ("ja", " 今日は。 元気ですか？", ["今日は。", "元気ですか？"], [" ", " ", ""]),
        ("en", "One.\r\n\n Two.\n", ["One.", "Two."], ["", "\r\n\n ", "\n"]),
        ("en", "", [], [""]),
        ("en", " \t ", [], [" \t "]),
        ("en", "\n\n", [], ["\n\n"]),
        ("xx", "no end", ["no end"], ["", ""]),
    ],
)  # fmt: skip
def test_a_paragraph_is_its_sentences_and_its_spaces(
    language: str, text: str, sentences: list[str], spaces: list[str]
) -> None:
    paragraph = Splitter(language).paragraph(text)
    assert paragraph == Paragraph(tuple(sentences), tuple(spaces))
    assert paragraph.join(sentences) == text
    assert Splitter(language).split(text) == sentences


def test_without_the_package_lines_are_sentences() -> None:
    assert lines_as_sentences(" One. Two.\n\nThree. ") == Paragraph(("One. Two.", "Three."), (" ", "\n\n", " "))


def test_translations_are_joined_with_the_spaces_of_the_original() -> None:
    paragraph = Splitter("en").paragraph(" One is here.\tTwo is there.  Three. ")
    assert paragraph.join(["1", "2", "3"], " ") == " 1\t2  3 "
    chinese = Splitter("zh").paragraph(" 你好。我很好！")
    assert chinese.join(["Hello.", "I am well!"], space_between("en")) == " Hello. I am well!"
    assert chinese.join(["今日は。", "元気です！"], space_between("ja")) == " 今日は。元気です！"
    assert Paragraph((), ("  ",)).join([], " ") == "  "


@pytest.mark.parametrize(("language", "space"), [("zh-Hant", ""), ("ZH_tw", ""), ("ja", ""), ("en", " "), ("th", " ")])
def test_a_space_separates_sentences_but_for_chinese_and_japanese(language: str, space: str) -> None:
    assert space_between(language) == space


A, B, C = (f"{source.removesuffix(' .')}." for source in (SOURCES[0], SOURCES[3], SOURCES[5]))
A, B, C = (text[0].upper() + text[1:] for text in (A, B, C))


def test_paragraphs_are_their_sentences(system: System, model: TrainedModel) -> None:
    search = model.config.search
    texts = [f"{A}  {B}", " ", f"\t{C} {A} {B} "]
    expected = [best.text for (best, *_) in translate_lines(system, [A, B, C, A, B], search)]
    one, blank, three = translate_paragraphs(system, texts, ("de", "en"), search)
    assert one.text == f"{expected[0]}  {expected[1]}"
    assert (blank.text, blank.translations, blank.score, blank.log_probability) == (" ", [], 0.0, 0.0)
    assert three.text == f"\t{expected[2]} {expected[3]} {expected[4]} "
    first, second = (best for (best, *_) in one.translations)
    assert one.score == pytest.approx((first.score + second.score) / 2)
    assert one.log_probability == pytest.approx(first.log_probability + second.log_probability)
    windows = list(paragraph_stream(system, texts, ("de", "en"), search, window=2))
    assert [[each.text for each in window] for window in windows] == [[one.text, " "], [three.text]]


def test_warnings_name_the_line_of_the_paragraph(
    system: System, model: TrainedModel, caplog: pytest.LogCaptureFixture
) -> None:
    texts = [f"{A} {B}", C]
    translate_paragraphs(system, texts, ("de", "en"), model.config.search, Request(max_length=1), first_line=7)
    named = [record.getMessage().partition(":")[0] for record in caplog.records]
    assert named == ["line 7", "line 7", "line 8"]


def test_paragraphs_in_and_out(call: Call, checkpoint: Path) -> None:
    text = f"{A}  {B}\n\n {C}\n".encode()
    lines = call(translate.main, "--model", checkpoint, stdin=f"{A}\n{B}\n{C}\n".encode()).output.splitlines()
    ended = call(translate.main, "--model", checkpoint, "--split-sentences", stdin=text)
    assert (ended.code, ended.errors) == (0, "")
    assert ended.output == f"{lines[0]}  {lines[1]}\n\n {lines[2]}\n"
    command = (translate.main, "--model", checkpoint, "--split-sentences", "--format", "jsonl", "--weights")
    first, blank, last = map(json.loads, call(*command, stdin=text).output.splitlines())
    assert (first["line"], first["source"], first["translation"]) == (1, f"{A}  {B}", f"{lines[0]}  {lines[1]}")
    assert [each["source"] for each in first["sentences"]] == [A, B]
    scores = [each["hypotheses"][0]["score"] for each in first["sentences"]]
    assert first["score"] == pytest.approx(sum(scores) / 2)
    assert len(first["sentences"][0]["hypotheses"][0]["weights"]) > 1
    assert (blank["line"], blank["translation"], blank["sentences"]) == (2, "", [])
    scored = call(
        translate.main, "--model", checkpoint, "--split-sentences", "--scores", stdin=text
    ).output.splitlines()
    assert scored == [
        f"{lines[0]}  {lines[1]} ||| {first['score']:.4f}", "", f" {lines[2]} ||| {last['score']:.4f}"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("option", "named"),
    [
        (["--n-best", "2"], "--n-best"),
        (["--alignments"], "--alignments"),
        (["--prefixes", "x"], "--prefixes"),
        (["--plot", "x.html"], "--plot"),
        (["--weights", "x.npz"], "--weights"),
    ],
)
def test_options_of_sentences_are_refused(call: Call, option: list[str], named: str) -> None:
    ended = call(translate.main, "--model", "none", "--split-sentences", *option)
    assert (ended.code, ended.errors) == (
        2,
        f"{named}: is for sentences, not for the paragraphs of --split-sentences; leave it out, or give a sentence a "
        "line\n",
    )


def test_without_the_package_nothing_is_loaded(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sentences, "find_spec", lambda _: None)
    ended = call(translate.main, "--model", "none", "--split-sentences")
    assert (ended.code, ended.errors) == (
        2,
        "--split-sentences: to split text into sentences takes the package sentencex; pip install sentencex, or give a "
        "sentence a line\n",
    )
