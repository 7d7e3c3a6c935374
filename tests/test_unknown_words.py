"""Unknown pieces of translations become source words, by hand-made attention, and from training to translating."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from nmt.cli import lexicon, translate
from nmt.cli.translate import render_json
from nmt.config.schema import SearchConfig, TokenizerConfig
from nmt.data.lexicons import Lexicon, SourceTokens
from nmt.data.tokenizer import TokenizerPair, learn
from nmt.errors import ConfigError
from nmt.search import Hypothesis
from nmt.tasks.components import parse_saved_config
from nmt.tasks.training import train
from nmt.tasks.translation import text_translation
from nmt.tasks.translation.evaluation import validation_search
from nmt.tasks.translation.loading import System, build_system, load_model
from nmt.tasks.translation.text_translation import Request, Translation, translate_lines
from tests.support.commands import Call
from tests.support.models import CONFIG, CPU, save_small, small_config
from tests.support.training_runs import run_config

PAIRS = [
    ("der Hund sieht die Katze .", "the dog sees the cat ."),
    ("die Katze, die alte, schläft.", "the cat, the old one, sleeps."),
    ('"ja", sagt er.', '"yes", he says.'),
    ("Peter sieht den Hund heute nicht", "Peter does not see the dog"),
]


def learned(kind: str, size: int, shared: bool = False) -> TokenizerPair:
    options = TokenizerConfig(kind=kind, vocabulary_size=size, shared=shared)  # type: ignore[arg-type]
    return learn(options, lambda: PAIRS, seed=1)


@pytest.fixture(scope="module")
def words() -> TokenizerPair:
    """Each side knows all of its 19 words and marks."""
    return learned("word", 23)


def attention(words: TokenizerPair, line: str, attended: list[int | None]) -> np.ndarray:
    """Weights [T, S] with most of each row on one source piece; None leaves all on the end symbol. The last row is the
    end's."""
    pieces = len(words.source.encode([line])[0])
    weights_TS = np.zeros((len(attended) + 1, pieces + 1), np.float32)
    for row, piece in enumerate(attended):
        if piece is None:
            weights_TS[row, -1] = 1.0
            continue
        weights_TS[row] = 0.4 / pieces
        # The end symbol has more weight than the piece: it is no word.
        weights_TS[row, -1] = 0.5
        weights_TS[row, piece] = 0.45
    return weights_TS


def lexicon_of(words: TokenizerPair, entries: dict[str, str]) -> Lexicon:
    """A lexicon with one translation of some pieces."""
    candidates = np.full((words.source.size, 1), -1, np.int32)
    for source, target in entries.items():
        (row,) = words.source.encode([source])
        (piece,) = words.target.encode([target])
        candidates[row[-1], 0] = piece[-1]
    return Lexicon(np.arange(words.target.size, dtype=np.int32), candidates, words.fingerprints)


def replaced(
    words: TokenizerPair,
    line: str,
    ids: list[int],
    attended: list[int | None],
    table: Lexicon | None = None,
) -> str:
    """The text of a translation with its unknown pieces replaced."""
    (source,) = words.source.encode([line])
    tokens = SourceTokens.of(line, source, words, table)
    return words.target.decode_with(ids, tokens.replacements(ids, attention(words, line, attended)))[0]


LINE = 'Meier sieht "Abu Simbel", sagt er.'
"""Pieces: 0 Meier, 1 sieht, 2 ", 3 Abu, 4 Simbel, 5 ", 6 comma, 7 sagt, 8 er, 9 dot."""


def test_the_line_has_the_pieces_of_these_tests(words: TokenizerPair) -> None:
    texts = [LINE.encode()[begin:end].decode().strip() for begin, end in words.source.spans(LINE)]
    assert texts == ["Meier", "sieht", '"', "Abu", "Simbel", '"', ",", "sagt", "er", "."]


@pytest.mark.parametrize(
    ("target", "attended", "expected"),
    [
        # The first, the last, and several unknown words.
        ("UNK the dog", [0, None, None], "Meier the dog"),
        ("the dog UNK", [None, None, 4], "the dog Simbel"),
        ("UNK UNK the UNK", [3, 4, None, 0], "Abu Simbel the Meier"),
        # Punctuation is attached to the replacement, and the words' own stays in the source.
        ('the dog, "UNK", UNK.', [None, None, None, None, 4, None, None, 9 - 1, None], 'the dog, "Simbel", er.'),
        # Known words stay, wherever attention is; a mark is a word.
        ("the dog", [3, 4], "the dog"),
        ("UNK dog", [6, None], ", dog"),
        # No attention on any word.
        ("the UNK", [None, None], "the ⁇"),
    ],
)
def test_copies_by_hand(words: TokenizerPair, target: str, attended: list[int | None], expected: str) -> None:
    (ids,) = words.target.encode([target.replace("UNK", "zzz")])
    assert len(ids) == len(attended)
    assert ids.count(words.target.unk) == target.count("UNK")
    assert replaced(words, LINE, ids, attended) == expected


def test_the_lexicon_translates_known_words_and_copies_the_others(words: TokenizerPair) -> None:
    line = "der Hund sieht Meier"
    table = lexicon_of(words, {"Hund": "dog", "sieht": "zzz"})
    assert words.source.unk not in words.source.encode(["der Hund sieht"])[0]
    table.candidates[words.source.unk, 0] = words.target.encode(["cat"])[0][0]
    ids = [words.target.unk] * 4
    # `der` has no translation, that of `sieht` is unknown, and `Meier` is unknown itself.
    assert replaced(words, line, ids, [0, 1, 2, 3], table) == "der dog sieht Meier"
    assert replaced(words, line, ids, [0, 1, 2, 3]) == "der Hund sieht Meier"


def test_a_word_of_several_pieces_has_the_sum_of_their_weights_and_is_copied_whole() -> None:
    subwords = learned("bpe", 34)
    line = "Katze, Hund"
    (row,) = subwords.source.encode([line])
    (hund,) = subwords.source.encode(["Hund"])
    assert len(hund) > 1
    assert row[-len(hund) :] == hund
    weights_TS = np.full((1, len(row) + 1), 0.0, np.float32)
    weights_TS[0, -1 - len(hund) : -1] = 0.6 / len(hund)
    weights_TS[0, 0] = 0.4
    table = lexicon_of(subwords, {})
    table.candidates[:, 0] = subwords.target.encode(["dog"])[0][-1]
    tokens = SourceTokens.of(line, row, subwords, table)
    assert tokens.replacements([subwords.target.unk], weights_TS) == {0: "Hund"}
    # The piece of a cut line belongs to its word, too.
    tokens = SourceTokens.of(line, row[:1], subwords, None)
    assert tokens.replacements([subwords.target.unk], weights_TS[:, [0, -1]]) == {0: "Katze"}
    assert SourceTokens.of("", [], subwords, table).replacements([subwords.target.unk], weights_TS[:, -1:]) == {}


def test_spans_are_those_of_the_text_with_replacements(words: TokenizerPair) -> None:
    (ids,) = words.target.encode(['"zzz", the zzz.'])
    unknown = [index for index, id_ in enumerate(ids) if id_ == words.target.unk]
    text, spans = words.target.decode_with(ids, dict(zip(unknown, ["Müller", "Hund"], strict=True)))
    assert text == '"Müller", the Hund.'
    found = [text.encode()[begin:end].decode().strip() for begin, end in spans]
    assert found == ['"', "Müller", '"', ",", "the", "Hund", "."]
    assert words.target.decode_with(ids, {}) == (words.target.decode([ids])[0], words.target.decoded_spans(ids))


@pytest.mark.parametrize("kind", ["bpe", "unigram", "char"])
def test_a_replaced_subword_stands_where_it_was(kind: str) -> None:
    pair = learned(kind, {"bpe": 34, "unigram": 30, "char": 40}[kind])
    (ids,) = pair.target.encode(["the 日 dog"])
    index = ids.index(pair.target.unk)
    text, spans = pair.target.decode_with(ids, {index: "Tag"})
    assert text == "the Tag dog"
    assert text[slice(*spans[index])] == "Tag"
    assert pair.target.decode_with(ids, {})[0] == pair.target.decode([ids])[0]


@pytest.fixture
def translated(words: TokenizerPair, monkeypatch: pytest.MonkeyPatch) -> list[list[Translation]]:
    """Two hypotheses of a line, with attention by hand."""
    rows = words.target.encode(["zzz the cat.", "zzz zzz"])
    places: list[list[int | None]] = [[8, None, None, None], [0, 4]]
    hypotheses = [
        Hypothesis(tuple(ids), -number, -number, (0.0,) * (len(ids) + 1), attention(words, LINE, attended))
        for number, (ids, attended) in enumerate(zip(rows, places, strict=True))
    ]
    monkeypatch.setattr(text_translation, "translate_batch", lambda *_, **__: [hypotheses])
    system = System((), words, CPU)
    search = SearchConfig(replace_unknown="copy")
    return translate_lines(system, [LINE], search, Request(n_best=2, attention=True))


def test_every_hypothesis_has_its_own_replacements(translated: list[list[Translation]]) -> None:
    ((first, second),) = translated
    assert (first.text, second.text) == ("er the cat.", "Meier Simbel")
    assert first.pieces == ("<unk>", "▁the", "▁cat", "▁‿.")
    # Words of the new text: `er`, `the` and `cat.`.
    assert (first.words, second.words) == ((0, 1, 2, 2), (0, 1))


def test_json_has_the_replaced_text_and_the_pieces(translated: list[list[Translation]]) -> None:
    content = json.loads(render_json(1, LINE, translated[0]))
    assert content["translation"] == "er the cat."
    assert [each["text"] for each in content["hypotheses"]] == ["er the cat.", "Meier Simbel"]
    assert content["hypotheses"][1]["pieces"] == ["<unk>", "<unk>"]
    assert content["hypotheses"][1]["alignments"]["pieces"] is not None


def test_attention_that_was_not_requested_is_not_kept(words: TokenizerPair, monkeypatch: pytest.MonkeyPatch) -> None:
    (ids,) = words.target.encode(["zzz"])
    requested = []

    def search(*_: object, want_attention: bool, **__: object) -> list[list[Hypothesis]]:
        requested.append(want_attention)
        weights_TS = attention(words, "Meier", [0]) if want_attention else None
        return [[Hypothesis(tuple(ids), 0.0, 0.0, (0.0, 0.0), weights_TS)]]

    monkeypatch.setattr(text_translation, "translate_batch", search)
    for value in ("copy", "none"):
        options = SearchConfig(replace_unknown=value)  # type: ignore[arg-type]
        ((best,),) = translate_lines(System((), words, CPU), ["Meier"], options)
        assert best.attention is None
        assert best.text == ("Meier" if value == "copy" else "⁇")
    assert requested == [True, False]


def test_a_model_without_attention_is_refused(tmp_path: Path, tokenizers: TokenizerPair, call: Call) -> None:
    save_small(tmp_path / "blind", tokenizers, attention="sutskever2014", updates=1)
    done = call(translate.main, "--model", tmp_path / "blind", "--replace-unknown", "copy", stdin=b"der hund\n")
    assert done.code == 2
    assert done.errors == ("--replace-unknown: the model has no attention to find source words by; set it to none\n")
    text = CONFIG.format(attention="sutskever2014", coverage_penalty=0.0, tests="{}")
    with pytest.raises(ConfigError) as caught:
        parse_saved_config(text, "small.yaml", ["search.replace_unknown=copy"])
    assert [problem.split(": ", 1)[1] for problem in caught.value.problems] == [
        "needs attention, and model.attention.score is none; leave it out"
    ]


def test_a_lexicon_that_is_not_there_is_asked_for(checkpoint: Path, call: Call) -> None:
    done = call(translate.main, "--model", checkpoint, "--replace-unknown", "lexicon", stdin=b"der hund\n")
    assert done.code == 2
    assert done.errors.count("\n") == 1
    assert f"--replace-unknown: {checkpoint} has no lexicon, neither there nor in its run" in done.errors


@pytest.mark.parametrize(("value", "validated"), [("none", "none"), ("copy", "copy"), ("lexicon", "copy")])
def test_validation_needs_no_lexicon(value: str, validated: str) -> None:
    config = small_config()
    search = config.search.model_copy(update={"replace_unknown": value})
    assert validation_search(config.model_copy(update={"search": search})).replace_unknown == validated


# From training to translating

NAMES = [f"{a}{b}{c}" for a in "bdfgk" for b in "aeiou" for c in "lmnr"]


def write_named_corpus(folder: Path) -> None:
    """Greetings, which the translation turns round; the names are many, so that a small vocabulary lacks most."""
    generator = random.Random(0)
    for name, count in (("train", 160), ("valid", 12)):
        rows = [
            (
                generator.choice(["hallo", "danke", "gut"]),
                generator.choice(["du", "ihr", "wir"]),
                generator.choice(NAMES),
            )
            for _ in range(count)
        ]
        source, target = (
            "".join(text.format(*row) for row in rows) for text in ("{0}, {1} und {2}!\n", "({2}) and {1}: {0}.\n")
        )
        (folder / f"{name}.xx").write_text(source, encoding="utf-8")
        (folder / f"{name}.yy").write_text(target, encoding="utf-8")


@pytest.mark.usefixtures("threads_and_generators_as_they_were")
def test_a_model_of_words_from_training_to_replacement(tmp_path: Path, call: Call) -> None:
    write_named_corpus(tmp_path)
    config = run_config(
        tmp_path,
        "tokenizer={kind: word, vocabulary_size: 24}",
        "search={replace_unknown: lexicon}",
        "training.max_epochs=6",
        "training.optimizer.learning_rate=1e-2",
    )
    train(config)
    model = load_model(Path(config.run), None, CPU)
    assert model.tokenizers.source.kind == "word"
    assert model.tokenizers.source.size == 24
    lines = (tmp_path / "valid.xx").read_text(encoding="utf-8").splitlines()

    plain = config.search.model_copy(update={"replace_unknown": "none"})
    before = translate_lines(build_system([model], CPU, plain), lines, plain)
    unknown = [best.pieces.count("<unk>") for best, *_ in before]
    assert sum(unknown) > 0
    assert [best.text.count("⁇") for best, *_ in before] == unknown
    # Punctuation is attached, as in the training text.
    assert not any("‿" in best.text or " ." in best.text or "( " in best.text for best, *_ in before)

    missing = call(translate.main, "--model", config.run, stdin=b"hallo, du und bal!\n")
    assert missing.code == 2
    assert "nmt-lexicon --model" in missing.errors
    assert call(lexicon.main, "--model", config.run).code == 0
    for value in ("copy", "lexicon"):
        search = config.search.model_copy(update={"replace_unknown": value})
        after = translate_lines(build_system([model], CPU, search), lines, search)
        assert [replace(best, text="") for best, *_ in after] == [replace(best, text="") for best, *_ in before]
        assert not any("⁇" in best.text for best, *_ in after)
    done = call(translate.main, "--model", config.run, "--format", "jsonl", stdin="\n".join(lines).encode())
    assert done.code == 0, done.errors
    assert "<unk>" in done.output
    assert "⁇" not in done.output


@pytest.mark.usefixtures("threads_and_generators_as_they_were")
def test_a_model_of_characters_from_training_to_translating(tmp_path: Path, call: Call) -> None:
    write_named_corpus(tmp_path)
    config = run_config(tmp_path, "tokenizer={kind: char, vocabulary_size: 100}", "training.max_epochs=1")
    train(config)
    model = load_model(Path(config.run), None, CPU)
    assert model.tokenizers.source.kind == "char"
    assert model.tokenizers.source.size < 50
    line = "hallo, du und bal!"
    ((best,),) = translate_lines(build_system([model], CPU), [line], config.search)
    assert "".join(best.source_pieces) == "▁" + line.replace(" ", "▁")
    done = call(translate.main, "--model", config.run, stdin=f"{line}\n".encode())
    assert (done.code, done.output.count("\n")) == (0, 1)
