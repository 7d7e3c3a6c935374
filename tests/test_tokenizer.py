"""Tokenizers: what goes in comes out, learning gives the same bytes, and mistakes are one clear line."""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import random
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from numpy.lib import NumpyVersion

import nmt
from nmt.config.schema import TokenizerConfig
from nmt.data.tokenizer import Tokenizer, TokenizerPair, draw_sentences, learn, load_or_none
from nmt.errors import DataError

CHECKOUT = Path(nmt.__file__).parents[1]
LETTERS = "abcdeäöüß"
KINDS = ["bpe", "unigram"]


def make_text(seed: int = 0, letters: str = LETTERS) -> list[tuple[str, str]]:
    """Sentences over a small lexicon, the source side spelled with all letters, the target with the first five."""
    generator = random.Random(seed)
    lexicon = ["".join(generator.choices(letters, k=generator.randint(1, 7))) for _ in range(120)]
    plain = ["".join(generator.choices(letters[:5], k=generator.randint(1, 7))) for _ in range(120)]
    return [(" ".join(generator.choices(lexicon, k=8)), " ".join(generator.choices(plain, k=8))) for _ in range(300)]


TEXT = make_text()


def options(**changes: Any) -> TokenizerConfig:
    return TokenizerConfig.model_validate({"vocabulary_size": 100, **changes})


def pairs() -> Iterator[tuple[str, str]]:
    return iter(TEXT)


@pytest.fixture(scope="module", params=KINDS)
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return learn(options(kind=request.param), pairs, seed=1).source


def trained_elsewhere(**changes: Any) -> bytes:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([source for source, _ in TEXT]),
        model_writer=model,
        vocab_size=60,
        model_type="bpe",
        minloglevel=2,
        **changes,
    )
    return model.getvalue()


def test_ids_and_size(tokenizer: Tokenizer) -> None:
    assert (tokenizer.pad, tokenizer.unk, tokenizer.bos, tokenizer.eos, tokenizer.size) == (0, 1, 2, 3, 100)
    assert tokenizer.pieces([0, 1, 2, 3]) == ["<pad>", "<unk>", "<s>", "</s>"]


def test_decoding_undoes_encoding(tokenizer: Tokenizer) -> None:
    generator = random.Random(7)
    lines = [
        " ".join(
            "".join(generator.choices(LETTERS, k=generator.randint(1, 12))) for _ in range(generator.randint(0, 9))
        )
        for _ in range(500)
    ]
    ids = tokenizer.encode(lines)
    assert tokenizer.decode(ids) == lines
    assert all(4 <= id_ < tokenizer.size for row in ids for id_ in row)


def test_blanks_and_nothing(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode([]) == []
    assert tokenizer.encode(["", "  "]) == [[], []]
    assert tokenizer.decode([]) == []
    assert tokenizer.decode([[], [tokenizer.bos, tokenizer.eos, tokenizer.pad]]) == ["", ""]
    spaced = tokenizer.encode(["ab cd", " ab  cd ", "ab\ncd", "ab▁cd", "ab\tcd"])
    assert all(row == spaced[0] for row in spaced)


def test_special_pieces_are_only_text_in_text(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode(["a</s>b<s><pad>"])[0]
    assert not {tokenizer.bos, tokenizer.eos, tokenizer.pad} & set(ids)


def test_unknown_pieces_are_counted(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode(["ab xx", "ab", "a x b y"])
    assert [row.count(tokenizer.unk) for row in ids] == [1, 0, 2]


def test_byte_fallback_knows_every_character() -> None:
    learned = learn(options(byte_fallback=True, vocabulary_size=320), pairs, seed=1).source
    lines = ["ab 日本 😀", "Ωx"]
    ids = learned.encode(lines)
    assert learned.decode(ids) == lines
    assert all(learned.unk not in row for row in ids)


def test_user_defined_symbols_stay_whole() -> None:
    learned = learn(options(user_defined_symbols=["<sep>", "a,b"]), pairs, seed=1).source
    assert {"<sep>", "a,b"} <= set(learned.pieces(learned.encode(["ab<sep>a,bc"])[0]))


def test_normalization() -> None:
    folded = learn(options(normalization="nmt_nfkc_cf"), pairs, seed=1).source
    assert folded.decode(folded.encode(["ABC Ａ"])) == ["abc a"]


def test_spaces_that_pieces_end_with_are_not_in_their_spans() -> None:
    suffixed = Tokenizer(trained_elsewhere(treat_whitespace_as_suffix=True), "theirs.model")
    line = TEXT[0][0]
    for piece, (begin, end) in zip(suffixed.pieces(suffixed.encode([line])[0]), suffixed.spans(line), strict=True):
        assert line.encode()[begin:end].decode() == piece.removesuffix("▁")


@pytest.mark.parametrize("index", [-1, 100])
def test_ids_outside_of_the_vocabulary_are_our_fault(tokenizer: Tokenizer, index: int) -> None:
    with pytest.raises(AssertionError, match=r"an id outside of 0\.\.99"):
        tokenizer.decode([[5], [5, index]])
    with pytest.raises(AssertionError, match=r"an id outside of 0\.\.99"):
        tokenizer.pieces([index])


def test_sampling_follows_its_seed(tokenizer: Tokenizer) -> None:
    lines = [source for source, _ in TEXT[:40]]
    first = tokenizer.sample(lines, alpha=0.3, seed=1)
    assert tokenizer.decode(first) == lines
    assert first != tokenizer.encode(lines)
    for seed in (2, 2**32 - 1, 2**40 + 5):
        other = tokenizer.sample(lines, alpha=0.3, seed=seed)
        assert other != first
        assert tokenizer.sample(lines, alpha=0.3, seed=seed) == other
    assert tokenizer.sample(lines, alpha=0.3, seed=1) == first
    assert tokenizer.sample(lines[:1], alpha=0.3, seed=1) == tokenizer.sample(lines[:1], alpha=0.3, seed=1)


@pytest.mark.xfail(
    NumpyVersion(sentencepiece.__version__) >= "0.2.2",
    reason="SentencePiece adds entropy of the process to the seed",
    raises=AssertionError,
)
def test_sampling_follows_its_seed_in_another_process(tokenizer: Tokenizer) -> None:
    lines = [source for source, _ in TEXT[:40]]
    script = """
import pickle, sys
tokenizer, lines = pickle.load(sys.stdin.buffer)
sys.stdout.buffer.write(pickle.dumps(tokenizer.sample(lines, alpha=0.3, seed=7)))
"""
    command, data = [sys.executable, "-c", script], pickle.dumps((tokenizer, lines))
    done = subprocess.run(command, input=data, capture_output=True, check=True, timeout=60, cwd=CHECKOUT)
    assert pickle.loads(done.stdout) == tokenizer.sample(lines, alpha=0.3, seed=7)


def test_sampling_in_threads_at_once_follows_the_seeds(tokenizer: Tokenizer) -> None:
    lines = [source for source, _ in TEXT[:40]]
    expected = {seed: tokenizer.sample(lines, alpha=0.3, seed=seed) for seed in range(8)}
    found: dict[int, list[list[list[int]]]] = {seed: [] for seed in expected}

    def work(seed: int) -> None:
        for _ in range(10):
            found[seed].append(tokenizer.sample(lines, alpha=0.3, seed=seed))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in expected]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(found[seed] == [expected[seed]] * 10 for seed in expected)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shared", [True, False])
def test_learning_again_gives_the_same_bytes(kind: str, shared: bool) -> None:
    first, again = (learn(options(kind=kind, shared=shared), pairs, seed=3) for _ in range(2))
    assert first.source.to_bytes() == again.source.to_bytes()
    assert first.target.to_bytes() == again.target.to_bytes()
    assert first.shared == shared


@pytest.mark.parametrize("kind", KINDS)
def test_another_process_learns_the_same_bytes(tmp_path: Path, kind: str) -> None:
    program = (
        "import json, sys\n"
        "from nmt.config.schema import TokenizerConfig\n"
        "from nmt.data.tokenizer import learn\n"
        "text, options = json.load(sys.stdin)\n"
        "print(learn(TokenizerConfig.model_validate(options), lambda: text, seed=3).source.fingerprint)\n"
    )
    given = json.dumps([TEXT, {"vocabulary_size": 100, "kind": kind}])
    environment = os.environ | {"PYTHONPATH": str(Path(nmt.__file__).parents[1])}
    ran = subprocess.run(
        [sys.executable, "-c", program],
        input=given,
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout.strip() == learn(options(kind=kind), pairs, seed=3).source.fingerprint


def test_the_model_knows_nothing_of_the_machine() -> None:
    model = learn(options(), pairs, seed=3).source.to_bytes()
    assert str(Path.cwd()).encode() not in model
    assert str(Path.home()).encode() not in model
    assert b"/tmp" not in model


def test_each_side_learns_its_own_text() -> None:
    learned = learn(options(shared=False), pairs, seed=1)
    assert learned.source.encode(["ä"])[0].count(learned.source.unk) == 0
    assert learned.target.encode(["ä"])[0].count(learned.target.unk) == 1


def test_drawing_is_even_and_follows_the_seed() -> None:
    sentences = [str(number) for number in range(20)]
    assert draw_sentences(sentences, 20, seed=1) == sentences
    assert (
        draw_sentences(sentences, 5, seed=1)
        == draw_sentences(iter(sentences), 5, seed=1)
        != draw_sentences(sentences, 5, seed=2)
    )
    times = [0] * 20
    for seed in range(4000):
        for sentence in draw_sentences(sentences, 5, seed):
            times[int(sentence)] += 1
    # Each of the 20 is drawn 1,000 times on average, with a standard deviation of 27.
    assert all(abs(count - 1000) < 150 for count in times)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("byte_fallback", [False, True])
def test_too_large_a_vocabulary_names_the_largest(kind: str, byte_fallback: bool) -> None:
    with pytest.raises(DataError) as caught:
        learn(options(kind=kind, byte_fallback=byte_fallback, vocabulary_size=8000), pairs, seed=1)
    [problem] = caught.value.problems
    stated = re.fullmatch(
        r"tokenizer\.vocabulary_size: 8000 is too large for this text; the largest possible is (\d+)", problem
    )
    assert stated is not None
    largest = int(stated[1])
    fitting = options(kind=kind, byte_fallback=byte_fallback, vocabulary_size=largest)
    assert learn(fitting, pairs, seed=1).source.size == largest
    with pytest.raises(DataError, match=rf"{largest + 1} is too large .* the largest possible is {largest}$"):
        learn(fitting.model_copy(update={"vocabulary_size": largest + 1}), pairs, seed=1)


def test_too_large_a_vocabulary_is_reported_for_each_side() -> None:
    with pytest.raises(DataError) as caught:
        learn(options(shared=False, vocabulary_size=8000), pairs, seed=1)
    source, target = caught.value.problems
    assert source.startswith("tokenizer.vocabulary_size: source side: 8000 is too large")
    assert target.startswith("tokenizer.vocabulary_size: target side: 8000 is too large")


def test_too_small_a_vocabulary_names_the_smallest() -> None:
    def many() -> Iterator[tuple[str, str]]:
        return ((chr(0x4E00 + number), "a") for number in range(50))

    with pytest.raises(DataError) as caught:
        learn(options(vocabulary_size=20), many, seed=1)
    [problem] = caught.value.problems
    # 50 Chinese characters, `a`, the space and the four special pieces.
    assert problem == (
        "tokenizer.vocabulary_size: 20 is too small for the characters of this text; "
        "the smallest possible is 56, or lower tokenizer.character_coverage"
    )
    assert learn(options(vocabulary_size=56), many, seed=1).source.size == 56


@pytest.mark.parametrize("text", [[], [("", " ")]])
def test_an_empty_text(text: list[tuple[str, str]]) -> None:
    with pytest.raises(DataError, match="the training text is empty"):
        learn(options(), lambda: text, seed=1)


def test_a_long_line_is_not_skipped() -> None:
    text = [(" ".join(source for source, _ in TEXT), "a")]
    assert len(text[0][0]) > 4192
    assert learn(options(), lambda: text, seed=1).source.unk == 1


@pytest.mark.parametrize("shared", [True, False])
def test_save_and_load(tmp_path: Path, shared: bool) -> None:
    learn(options(shared=not shared), pairs, seed=1).save(tmp_path)
    learned = learn(options(shared=shared), pairs, seed=1)
    learned.save(tmp_path)
    names = ["tokenizer.model"] if shared else ["source.model", "target.model"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    loaded = TokenizerPair.load(tmp_path)
    assert (loaded.source.fingerprint, loaded.target.fingerprint, loaded.shared) == (
        learned.source.fingerprint,
        learned.target.fingerprint,
        shared,
    )


def test_pickling(tokenizer: Tokenizer) -> None:
    copy = pickle.loads(pickle.dumps(tokenizer))
    assert copy.fingerprint == tokenizer.fingerprint
    assert copy.encode(["ab cd"]) == tokenizer.encode(["ab cd"])


def test_a_model_from_elsewhere_keeps_its_ids() -> None:
    foreign = Tokenizer(trained_elsewhere(), "theirs.model")
    assert (foreign.unk, foreign.bos, foreign.eos, foreign.pad) == (0, 1, 2, 2)
    assert foreign.decode(foreign.encode([TEXT[0][0]])) == [TEXT[0][0]]


def test_a_model_without_sentence_ends_is_refused() -> None:
    with pytest.raises(DataError, match=r"^theirs\.model: the SentencePiece model has no bos and no eos piece; "):
        Tokenizer(trained_elsewhere(bos_id=-1, eos_id=-1), "theirs.model")


@pytest.mark.parametrize("damage", ["empty", "cut", "text", "gzip"])
def test_a_damaged_model_is_refused(damage: str) -> None:
    whole = trained_elsewhere()
    model = {"empty": b"", "cut": whole[: len(whole) // 2], "text": b"Ein Hund\n", "gzip": gzip.compress(whole)}[damage]
    with pytest.raises(DataError, match=r"^bad\.model: .*not a SentencePiece model"):
        Tokenizer(model, "bad.model")


def test_files_of_the_options(tmp_path: Path) -> None:
    assert load_or_none(options()) is None
    (tmp_path / "a.model").write_bytes(trained_elsewhere())
    (tmp_path / "b.model").write_bytes(trained_elsewhere(max_sentencepiece_length=4))
    a, b, none, missing = (str(tmp_path / name) for name in ("a.model", "b.model", "none.model", "missing.model"))
    both = load_or_none(options(file=a))
    each = load_or_none(options(source_file=a, target_file=b, shared=False))
    assert both is not None
    assert each is not None
    assert (both.shared, each.shared) == (True, False)
    os.mkfifo(tmp_path / "pipe.model")
    with pytest.raises(DataError, match=r"pipe\.model: is a pipe or a device, not a file"):
        load_or_none(options(file=str(tmp_path / "pipe.model")))
    with pytest.raises(DataError) as caught:
        load_or_none(options(source_file=none, target_file=missing, shared=False))
    assert caught.value.problems == (
        f"{none}: No such file or directory",
        f"{missing}: No such file or directory",
    )
