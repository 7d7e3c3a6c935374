"""Rules on the text of training pairs: what they leave out, that all of it is listed, and that it is done once."""

from __future__ import annotations

import json
import pickle
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nmt.config.schema import DataConfig, FiltersConfig
from nmt.data import cleaning
from nmt.data.cache import EncodedCorpus, encode_corpora, hold_out_pairs, leave_out
from nmt.data.cleaning import PairRules, is_copy, is_garbled, is_other_language, letter_share, primary_code
from nmt.data.readers.base import Counts, SplitOptions
from nmt.data.readers.corpora import Corpus, TsvPairOptions, open_corpus
from nmt.data.tokenizer import TokenizerPair
from nmt.errors import ConfigError, DataError
from nmt.tasks.training import train
from tests.support.training_runs import records, run_config, write_corpus

pytestmark = pytest.mark.usefixtures("threads_and_generators_as_they_were")

TEXT_ONLY = FiltersConfig(copies="drop", garbled="drop", min_letters=0.5, max_word_length=10, broken_utf8="drop")
CLEAN = [("ein Hund", "a dog"), ("eine Katze", "a cat"), ("der Hund läuft", "the dog runs"), ("12:30", "half past 12")]
DIRTY = [
    ("ein Hund läuft", "ein  HUND läuft", "copy"),
    ("schÃ¶n ist es", "it is nice", "garbled"),
    ("es kostet", "$ 12.50 --", "few letters"),
    ("Donaudampfschiff", "a ship", "long word"),
]


# Text


@pytest.mark.parametrize(
    ("source", "target", "copy"),
    [
        ("the dog", "the dog", True),
        ("The dog  runs.", "the DOG runs.", True),
        ("eﬃzient und ｇｕｔ", "effizient und gut", True),
        ("the dog", "the dog.", False),
        ("the dog", "the cat", False),
        # Names, numbers and addresses.
        ("Tom Smith", "Tom Smith", False),
        ("Leonardo da Vinci", "Leonardo da Vinci", False),
        ("hotel", "Hotel", False),
        ("12:30", "12:30", False),
        ("http://example.org", "http://example.org", False),
        ("5 kg, 7 cm", "5 kg, 7 cm", True),
        ("(the) »dog«", "(the) »dog«", True),
        # Without capitals.
        ("привет мир", "привет мир", True),
        ("नमस्ते दुनिया", "नमस्ते दुनिया", True),
    ],
)
def test_copies(source: str, target: str, copy: bool) -> None:
    assert is_copy(source, target) is copy


@pytest.mark.parametrize("wrong", ["cp1252", "latin-1"])
def test_text_in_a_wrong_encoding(wrong: str) -> None:
    words = "schön|für|à la|Noël|coûte des|привет|日本|‘x|œuvre|don’t|1\u00a0kg|łódź|Çelik|Österreich|wąż"
    for word in words.split("|"):
        assert not is_garbled(word)
        assert is_garbled(word.encode().decode(wrong, "replace")), word


def test_capitals_at_the_end_of_a_quotation_are_no_wrong_encoding() -> None:
    for text in ("„Spaß“", "«MANHû", "„CDÄ“ – „CDÅ“", "“AMANHÔ", "5\u00a0Å\u00a0lang", "AMANHÃ…", "É, Â", "‚Ä‘", "1°C"):
        assert not is_garbled(text), text


def test_characters_that_no_text_has() -> None:
    assert all(is_garbled(f"a{character}b") for character in "\ufffd\0\x1b\x7f\x80\x9f")
    assert not any(is_garbled(f"a{character}b") for character in "\t\r\f\x85\xa0\u200d\u2028 ")


def test_share_of_letters() -> None:
    assert letter_share("ab 12") == 0.5
    assert letter_share("नमस्ते") == 1.0  # vowel signs are marks
    assert letter_share("日本 e\u0301!") == 4 / 5
    assert letter_share("...") == letter_share(" ") == 0.0


def test_long_words() -> None:
    rules = PairRules(FiltersConfig(max_word_length=5), ("de", "en"))
    assert rules.reason("aaaaa bbbbb", "ccccc") is None
    assert rules.reason("aaaaa", "c\u00a0dddddd") == "long word"
    # No spaces between words.
    assert rules.reason("我們今天去看電影，好嗎", "วันนี้เราจะไปดูหนัง") is None


def test_only_the_rules_that_are_on_apply_and_blank_sides_are_left_alone() -> None:
    off, on = PairRules(FiltersConfig(), ("de", "en")), PairRules(TEXT_ONLY, ("de", "en"))
    for source, target, reason in DIRTY:
        assert off.reason(source, target) is None
        assert on.reason(source, target) == on.reason(target, source) == reason
    assert [on.reason(*pair) for pair in CLEAN[:3]] == [None] * 3
    assert on.reason("", "Ã¼") is on.reason(" ", "...") is on.reason("\ufffd", "") is None
    assert pickle.loads(pickle.dumps(on)).reason("\ufffd", "a") == "garbled"


def test_keys_of_the_rules_on_text() -> None:
    assert FiltersConfig().text_rules == {}
    assert FiltersConfig(copies="drop", min_letters=0.5, max_length=7).text_rules == {
        "copies": "drop",
        "min_letters": 0.5,
    }
    # What the fingerprint of encoded text is made of: the same as before there were rules on text.
    before = {"max_length": 100, "max_ratio": 9.0, "empty": "drop", "broken_utf8": "error", "duplicates": "keep"}
    assert FiltersConfig(copies="drop", min_letters=0.5).piece_rules == before


# Languages


def test_languages() -> None:
    pytest.importorskip("py3langid")
    german, english = "Der Hund läuft durch den Schnee.", "The dog runs through the snow."
    french = "Le chien court à travers la neige."
    rules = PairRules(FiltersConfig(wrong_language="drop"), ("de", "en-GB"))
    rules.check()
    assert rules.reason(german, english) is None
    assert rules.reason(english, german) == rules.reason(french, english) == rules.reason(german, french)
    assert rules.reason(german, german) == "wrong language"
    # Too short to tell: names, numbers, nothing that is a word.
    for text in ("Tom Smith", "12:30", "IBM", "...", "New York", "Berlin!", "x = 3"):
        assert rules.reason(text, text) is None
    assert not is_other_language("Jeg har en hund og en katt hjemme.", "nn")
    assert is_other_language("Jeg har en hund og en katt hjemme.", "de")


def test_codes_of_languages() -> None:
    codes = [primary_code(code) for code in ("de", "de-AT", "DE_at", "nb-NO", "zh-Hans", "cmn")]
    assert codes == ["de", "de", "de", "no", "zh", "zh"]


def test_unknown_languages_and_a_missing_package(monkeypatch: pytest.MonkeyPatch) -> None:
    filters = FiltersConfig(wrong_language="drop")
    if cleaning.find_spec("py3langid"):
        with pytest.raises(ConfigError) as caught:
            PairRules(filters, ("ger", "xx")).check()
        assert [problem.partition(";")[0] for problem in caught.value.problems] == [
            f"data.{side}_language: {code!r} is no language that data.filters.wrong_language can identify"
            for side, code in (("source", "ger"), ("target", "xx"))
        ]
    monkeypatch.setattr(cleaning, "find_spec", lambda name: None)
    PairRules(FiltersConfig(), ("ger", "xx")).check()
    with pytest.raises(ConfigError) as caught:
        PairRules(filters, ("de", "en")).check()
    assert caught.value.problems == (
        "data.filters.wrong_language: to identify languages takes the package py3langid; pip install py3langid, or "
        "leave it out",
    )


# Corpora


def corpus(folder: Path, rows: Sequence[tuple[str, ...]], name: str = "a", documents: bool = False) -> Corpus:
    path = folder / f"{name}.tsv"
    path.write_bytes(b"".join("\t".join(row).encode("utf-8", "surrogateescape") + b"\n" for row in rows))
    options = TsvPairOptions(path=str(path), documents_column=3 if documents else None)
    data = DataConfig(
        source_language="de", target_language="en", train=[options], validation=options, filters=TEXT_ONLY
    )
    return open_corpus(options, data)


def rules_of(filters: FiltersConfig = TEXT_ONLY) -> PairRules:
    return PairRules(filters, ("de", "en"))


def encode(
    corpora: Sequence[Corpus], tokenizers: TokenizerPair, cache: Path, filters: FiltersConfig = TEXT_ONLY
) -> EncodedCorpus:
    return encode_corpora(corpora, tokenizers, filters, cache, 1, keep_text=True)


def listed(cache: Path) -> list[dict[str, Any]]:
    (file,) = cache.glob("*/left_out.jsonl")
    return [json.loads(line) for line in file.read_text(encoding="utf-8").split("\n")[:-1]]


def test_dirty_pairs_are_left_out_counted_and_listed(tmp_path: Path, tokenizers: TokenizerPair) -> None:
    broken = ("\udcff", "x")
    rows = [CLEAN[0], broken, *(pair[:2] for pair in DIRTY), CLEAN[1], ("", "nothing"), broken, CLEAN[2]]
    corpora = [
        corpus(tmp_path, rows, "a"),
        corpus(tmp_path, CLEAN[:2], "b"),
        corpus(tmp_path, [DIRTY[0][:2], CLEAN[2]], "c"),
    ]
    cache = tmp_path / "cache"
    lines = list(leave_out(corpora, rules_of(), cache, 1))
    assert lines == [
        f"left out as copy: {tmp_path}/a.tsv:3: ein Hund läuft ||| ein  HUND läuft",
        f"left out as copy: {tmp_path}/c.tsv:1: ein Hund läuft ||| ein  HUND läuft",
        *(
            f"left out as {reason}: {tmp_path}/a.tsv:{line}: {source} ||| {target}"
            for line, (source, target, reason) in enumerate(DIRTY[1:], start=4)
        ),
    ]
    expected = [(0, line, *pair) for line, pair in enumerate(DIRTY, start=3)] + [(2, 1, *DIRTY[0])]
    assert [tuple(row[key] for key in ("corpus", "line", "source", "target", "reason")) for row in listed(cache)] == (
        expected
    )
    assert [[pair[:3] for pair in each] for each in corpora] == [
        [(*CLEAN[0], 1), (*CLEAN[1], 7), ("", "nothing", 8), (*CLEAN[2], 10)],
        [(*CLEAN[0], 1), (*CLEAN[1], 2)],
        [(*CLEAN[2], 2)],
    ]
    encoded = encode(corpora, tokenizers, cache)
    assert encoded.report.dropped == {
        "not UTF-8": 2,
        "copy": 2,
        "garbled": 1,
        "few letters": 1,
        "long word": 1,
        "empty side": 1,
    }
    assert (encoded.report.read, encoded.report.kept) == (14, 6)
    assert encoded.report.lines()[2] == f"{tmp_path}/c.tsv: 2 pairs read, 1 kept; left out: copy 1 (line 1)"
    assert encoded.text(np.arange(6))[0] == [CLEAN[number][0] for number in (0, 1, 2, 0, 1, 2)]


def test_a_second_run_judges_nothing_and_other_rules_judge_anew(
    tmp_path: Path, tokenizers: TokenizerPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [*CLEAN, *(pair[:2] for pair in DIRTY)]
    cache = tmp_path / "cache"

    def fingerprints(name: str, filters: FiltersConfig) -> tuple[str, list[str]]:
        opened = corpus(tmp_path, rows, name)
        lines = list(leave_out([opened], rules_of(filters), cache, 1))
        return encode([opened], tokenizers, cache, filters).fingerprint, lines

    first, lines = fingerprints("a", TEXT_ONLY)
    with monkeypatch.context() as patched:
        patched.setattr(PairRules, "reason", None)
        # Equal contents under another name: the examples name the new file.
        assert fingerprints("z", TEXT_ONLY) == (first, [line.replace("/a.tsv", "/z.tsv") for line in lines])
    assert len(listed(cache)) == 5  # with few letters in `12:30`
    other, lines = fingerprints("a", FiltersConfig(copies="drop", broken_utf8="drop"))
    assert other != first
    assert len(lines) == 1
    plain = encode([corpus(tmp_path, rows)], tokenizers, cache, FiltersConfig(broken_utf8="drop"))
    assert plain.fingerprint not in (first, other)
    assert len(plain) == len(rows)


def test_without_a_pair_left_the_reasons_are_named(tmp_path: Path) -> None:
    opened = corpus(tmp_path, [DIRTY[0][:2]] * 2)
    with pytest.raises(DataError, match=r"a\.tsv: nothing is left of 2 pairs, see data\.filters: copy 2 \(lines 1, 2"):
        leave_out([opened], rules_of(), tmp_path / "cache", 1)


def test_sentences_of_documents_stay_as_context(tmp_path: Path, tokenizers: TokenizerPair) -> None:
    long = "ein Hund läuft " * 60  # above max_length too, but counted once
    rows = [(*CLEAN[0], "x"), (long, long, "x"), (*CLEAN[1], "x"), (*CLEAN[2], "y"), (*DIRTY[1][:2], "y")]
    opened = corpus(tmp_path, rows, documents=True)
    leave_out([opened], rules_of(), tmp_path / "cache", 1)
    encoded = encode([opened], tokenizers, tmp_path / "cache")
    assert encoded.is_pair(np.arange(5)).tolist() == [True, False, True, True, False]
    assert encoded.previous_rows(np.arange(5)).tolist() == [-1, 0, 1, -1, 3]
    assert encoded.report.dropped == {"copy": 1, "garbled": 1}
    counts = encoded.report.corpora[0]
    assert (counts.read, counts.kept) == (5, 3)
    assert [pair.left_out for pair in opened.read(Counts())] == [None, "copy", None, None, "garbled"]
    # A split draws whole documents, without what is left out.
    path = hold_out_pairs([opened], SplitOptions(split=2), "error", tmp_path / "cache")
    sources = [json.loads(line)["source"] for line in path.read_text().splitlines()]
    assert sources in ([CLEAN[0][0], CLEAN[1][0]], [CLEAN[2][0]])


def test_a_split_is_drawn_from_what_the_rules_keep(tmp_path: Path) -> None:
    pairs = [(f"Satz Nummer {number}", f"sentence {number}") for number in range(60)]
    copies = [(f"ein kleiner {number}", f"ein kleiner {number}") for number in range(60)]
    rows = pairs + copies
    random.Random(1).shuffle(rows)
    opened = corpus(tmp_path, rows)
    leave_out([opened], rules_of(), tmp_path / "cache", 1)
    path = hold_out_pairs([opened], SplitOptions(split=30), "error", tmp_path / "cache")
    drawn = [json.loads(line)["target"] for line in path.read_text().splitlines()]
    assert len(drawn) == 30
    counts = Counts()
    rest = [pair.target for pair in opened.read(counts)]
    assert sorted(drawn + rest) == sorted(target for _, target in pairs)
    assert {reason: dropped.count for reason, dropped in counts.dropped.items()} == {
        "copy": 60,
        "held out for validation": 30,
    }


# Runs


def test_a_run_trains_on_the_clean_pairs_alone(tmp_path: Path) -> None:
    """The same losses as without the dirty pairs, also after it is resumed; validation text is left alone."""
    overrides = ("data.filters={copies: drop, garbled: drop}", "training.max_epochs=1")
    losses = []
    for name, dirt in (("without", []), ("with", [("zz zz q", "zz  zz Q"), ("a \ufffd", "b")])):
        folder = tmp_path / name
        folder.mkdir()
        write_corpus(folder)
        for side, suffix in enumerate(("xx", "yy")):
            file = folder / f"train.{suffix}"
            lines = file.read_text(encoding="utf-8").splitlines()
            for number, pair in enumerate(dirt):
                lines.insert(7 * number, pair[side])
            file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
            with (folder / f"valid.{suffix}").open("a", encoding="utf-8") as valid:
                valid.write("a b c\n")
        train(run_config(folder, *overrides))
        losses.append([record["loss"] for kind in ("train", "validation") for record in records(folder / "run", kind)])
    assert losses[0] == losses[1]
    log = (tmp_path / "with" / "run" / "train.log").read_text(encoding="utf-8")
    # Some of the pairs read the same backwards.
    assert "122 pairs read, 116 kept; left out: copy 5 (lines 1, 21, 56, 68, 90), garbled 1 (line 8)" in log
    assert f"left out as copy: {tmp_path}/with/train.xx:1: zz zz q ||| zz  zz Q\n" in log
    train(run_config(tmp_path / "with", *overrides[:1], "training.max_epochs=2"))
    with pytest.raises(ConfigError, match=r"data\.filters\.copies"):
        train(run_config(tmp_path / "with", "data.filters={garbled: drop}", "training.max_epochs=3"))
