"""Augmentation: upper case, title case and typing errors; seeded, resumable, the same for any number of ranks."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import torch

from nmt.config import TranslationConfig
from nmt.config.schema import AugmentationConfig, DataConfig, TokenizerConfig
from nmt.data.augmentation import (
    TITLE,
    TYPOS,
    UPPER,
    capitals,
    change_case,
    change_pairs,
    draw_variants,
    title_case,
    with_typos,
)
from nmt.data.batching import Batch, BatchStream, Position
from nmt.data.batching.document_context import DocumentContext
from nmt.data.cache import EncodedCorpus, encode_corpora
from nmt.data.readers.corpora import TextPairOptions, open_corpus
from nmt.data.tokenizer import Tokenizer, TokenizerPair, learn
from nmt.errors import ConfigError
from nmt.tasks.components import parse_saved_config
from nmt.tasks.training import train
from nmt.tasks.translation import setup
from tests.support.training_runs import CONFIG, run_config, write_corpus

WORDS = ["Hund", "Katze", "läuft", "schläft", "der", "die", "groß", "klein", "Haus", "und"]
PAIRS = 600
BUDGET = 300
ALL = AugmentationConfig(upper_case=0.3, title_case=0.2, typos=0.5)


class Scripted(random.Random):
    """Returns given numbers, then 1, with which no word is changed."""

    def __init__(self, *numbers: float) -> None:
        super().__init__()
        self.numbers = list(numbers)

    def random(self) -> float:
        return self.numbers.pop(0) if self.numbers else 0.999999


# Text


def test_cases() -> None:
    text = "der \"kleine\" Hund,  3 X-beine   l'ami's groß ı"
    assert change_case([text] * 4, [0, UPPER, TITLE, TYPOS]) == [
        text,
        "DER \"KLEINE\" HUND,  3 X-BEINE   L'AMI'S GROSS I",
        "Der \"Kleine\" Hund,  3 X-beine   L'ami's Groß I",
        text,
    ]
    assert title_case("a\tb\u00a0cc ¿qué? .5a -") == "A\tB\u00a0Cc ¿Qué? .5a -"


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [
        ((0.0, 0.0, 0.0), "Ktaze"),
        ((0.0, 0.3, 0.999), "Kazte"),
        ((0.0, 0.4, 0.0), "Ktze"),
        ((0.0, 0.6, 0.999), "Kate"),
        ((0.0, 0.7, 0.0), "Kaatze"),
        ((0.0, 0.999, 0.999), "Katzze"),
        ((0.0999, 0.0, 0.0), "Ktaze"),
        ((0.1001, 0.0, 0.0), "Katze"),
    ],
)
def test_typing_errors(numbers: tuple[float, ...], expected: str) -> None:
    """Letters swapped, left out and doubled; first at the first place where they can be, then at the last."""
    assert with_typos("die Katze, x", Scripted(*numbers)) == f"die {expected}, x"


def test_typing_errors_spare_short_words_numbers_and_the_ends_of_words() -> None:
    text = 'abc 12345 a1b2c3 wunderbar "Hund" l\'homme'
    typing, shares = random.Random(1), []
    for _ in range(2000):
        changed = with_typos(text, typing)
        assert changed.startswith("abc 12345 a1b2c3 w")
        assert [word[0] + word[-1] for word in changed.split()] == [word[0] + word[-1] for word in text.split()]
        assert set(changed) <= set(text)
        shares.append(changed.split()[3] != "wunderbar")
    assert abs(np.mean(shares) - 0.1) < 5 * np.sqrt(0.09 / 2000)


def test_both_sides_change_case_and_the_source_alone_gets_typing_errors() -> None:
    variants = np.array([0, UPPER, TITLE | TYPOS, TYPOS, UPPER | TYPOS])
    drops = Scripted(0.0, 0.5, 0.0, 0.0, 0.5, 0.0, 0.0, 0.5, 0.0)
    changed = change_pairs(["hund a"] * 5, ["doggy b"] * 5, variants, drops)
    assert changed == (
        ["hund a", "HUND A", "Hnd A", "hnd a", "HND A"],
        ["doggy b", "DOGGY B", "Doggy B", "doggy b", "DOGGY B"],
    )


def test_variants_are_drawn_with_their_probabilities() -> None:
    count = 20_000
    drawn = draw_variants(ALL, count, np.random.default_rng(1))
    for mask, variant, probability in (
        (UPPER | TITLE, UPPER, 0.3),
        (UPPER | TITLE, TITLE, 0.2),
        (UPPER | TITLE, 0, 0.5),
        (UPPER | TYPOS, UPPER | TYPOS, 0.15),
        (TYPOS, TYPOS, 0.5),
    ):
        share = np.mean(drawn & mask == variant)
        assert abs(share - probability) < 5 * np.sqrt(probability * (1 - probability) / count), (mask, variant)
    assert not draw_variants(AugmentationConfig(), 100, np.random.default_rng(1)).any()
    assert set(draw_variants(AugmentationConfig(typos=0.5), 100, np.random.default_rng(1))) == {0, TYPOS}


# Configuration


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "data.augmentation={upper_case: 0.6, title_case: 0.5}",
            "data.augmentation.title_case: and `upper_case` are above 1 together, and a pair is in one case only; "
            "lower one of them",
        ),
        (
            "data.augmentation={upper_case: 0.1, typos: 0.1}",
            "data.augmentation.upper_case: has no effect with tokenizer.normalization: nmt_nfkc_cf, which folds case; "
            "set tokenizer.normalization: nmt_nfkc, or leave it out",
        ),
    ],
)
def test_contradictions(override: str, message: str) -> None:
    folded = ["tokenizer.normalization=nmt_nfkc_cf"] if "folds case" in message else []
    with pytest.raises(ConfigError) as caught:
        parse_saved_config(CONFIG.format(folder="x"), "x.yaml", [override, *folded])
    (problem,) = caught.value.problems
    assert problem.endswith(message)


def test_typing_errors_need_no_case_and_documents_have_none() -> None:
    config = parse_saved_config(
        CONFIG.format(folder="x"), "x.yaml", ["data.augmentation={typos: 0.1}", "tokenizer.normalization=nfkc_cf"]
    )
    assert isinstance(config, TranslationConfig)
    assert config.data.augmentation == AugmentationConfig(typos=0.1)
    assert config.data.augmentation.is_on
    assert not config.data.augmentation.changes_case
    assert not AugmentationConfig().is_on


# Vocabularies


def sentences(count: int, seed: int = 3) -> list[tuple[str, str]]:
    """Pairs of random words; both sides of a pair are about as long."""
    rng = np.random.default_rng(seed)
    pairs = []
    for _ in range(count):
        words = int(rng.integers(1, 15))
        source, target = (rng.choice(WORDS, words + rng.integers(0, 3)) for _ in range(2))
        pairs.append((" ".join(source), " ".join(target)))
    return pairs


@pytest.fixture(scope="module")
def tokenizers() -> TokenizerPair:
    return learn(TokenizerConfig(vocabulary_size=110, shared=False), lambda: sentences(400), 1, ALL)


def unknown(tokenizer: Tokenizer, texts: Iterable[str]) -> int:
    return sum(ids.count(tokenizer.unk) for ids in tokenizer.encode(list(texts)))


def test_capitals() -> None:
    assert capitals("aAß1ä 語ŉ") == sorted({"A", "S", "Ä", "ʼ", "N"})
    assert {"\u03aa", "\u0301"} <= set(capitals("\u0390"))  # a letter with two accents, which has no capital of its own


@pytest.mark.parametrize("kind", ["bpe", "unigram", "char"])
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("options", [AugmentationConfig(upper_case=1e-6), AugmentationConfig(title_case=1e-6)])
def test_every_capital_of_the_text_has_a_piece_even_if_its_share_has_none(
    kind: str, shared: bool, options: AugmentationConfig
) -> None:
    rng = np.random.default_rng(1)
    words = [["".join(rng.choice(list("abcdefghijäöüß"), 6)) for _ in range(200)] for _ in range(2)]
    text = list(zip(*words, strict=True))
    settings = TokenizerConfig.model_validate({"kind": kind, "shared": shared, "vocabulary_size": 60})
    plain, augmented = learn(settings, lambda: text, 1), learn(settings, lambda: text, 1, options)
    for side in (0, 1):
        upper = [pair[side].upper() for pair in text]
        assert unknown((plain.source, plain.target)[side], upper) > 0
        assert unknown((augmented.source, augmented.target)[side], upper) == 0
    assert "C" in plain.source.unknown_capitals()
    assert augmented.source.unknown_capitals() == augmented.target.unknown_capitals() == []


def test_words_in_upper_case_are_words_by_their_share() -> None:
    settings = TokenizerConfig(kind="word", vocabulary_size=24, shared=False)
    words = learn(settings, lambda: sentences(400), 1, AugmentationConfig(upper_case=0.5)).source
    assert unknown(words, ["Katze KATZE groß GROSS"]) == 0
    assert words.unknown_capitals() == []


def test_upper_case_words_get_pieces_by_their_share() -> None:
    settings = TokenizerConfig(vocabulary_size=100)
    lengths = {}
    for share in (0.0, 0.5):
        pair = learn(settings, lambda: sentences(400), 1, AugmentationConfig(upper_case=share, typos=0.5))
        lengths[share] = len(pair.source.encode(["SCHLÄFT"])[0])
    assert lengths[0.5] == 1 < lengths[0.0]


def test_without_another_case_the_vocabulary_has_the_same_bytes() -> None:
    settings = TokenizerConfig(vocabulary_size=60)
    learned = [learn(settings, lambda: sentences(200), 1, *more) for more in ((), (AugmentationConfig(typos=0.5),))]
    assert learned[0].fingerprints == learned[1].fingerprints


# Batches


def encode(
    folder: Path, pairs: list[tuple[str, str]], tokenizers: TokenizerPair, name: str = "x", documents: bool = False
) -> EncodedCorpus:
    """The pairs with alignments, word by word, and their text; documents of four sentences."""
    columns = {
        "source": [source for source, _ in pairs],
        "target": [target for _, target in pairs],
        "alignments": [
            " ".join(f"{number}-{number}" for number in range(min(len(source.split()), len(target.split()))))
            for source, target in pairs
        ],
        "documents": [str(number // 4) for number in range(len(pairs))],
    }
    if not documents:
        del columns["documents"]
    for key, lines in columns.items():
        (folder / f"{name}.{key}").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    options = TextPairOptions.model_validate({key: str(folder / f"{name}.{key}") for key in columns})
    data = DataConfig(source_language="de", target_language="en", train=[options], validation=options)
    return encode_corpora([open_corpus(options, data)], tokenizers, None, folder / "cache", 1, keep_text=True)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory, tokenizers: TokenizerPair) -> EncodedCorpus:
    return encode(tmp_path_factory.mktemp("corpus"), sentences(PAIRS), tokenizers)


def stream_of(
    corpus: EncodedCorpus,
    tokenizers: TokenizerPair,
    augmentation: AugmentationConfig = ALL,
    *,
    rank: int = 0,
    world: int = 1,
    accumulation: int = 1,
    sampling: float = 0.0,
    links: bool = False,
    context: DocumentContext | None = None,
) -> BatchStream:
    fixed = (corpus, BUDGET, 1, rank, world, accumulation, tokenizers, sampling, links, context, augmentation)
    return BatchStream(*fixed, window_rows=PAIRS // 3, block_rows=PAIRS // 20)


def texts_of(batch: Batch, tokenizers: TokenizerPair) -> list[tuple[str, str]]:
    sides = (
        (tokenizers.source, batch.source_BS, batch.source_lengths_B),
        (tokenizers.target, batch.target_BT, batch.target_lengths_B),
    )
    source, target = (
        tokenizer.decode([row[: length - 1] for row, length in zip(ids.tolist(), lengths.tolist(), strict=True)])
        for tokenizer, ids, lengths in sides
    )
    return list(zip(source[: batch.pairs], target[: batch.pairs], strict=True))


def assert_same(left: Batch, right: Batch) -> None:
    assert left.rows.tolist() == right.rows.tolist()
    for name in ("source_BS", "source_lengths_B", "target_BT", "target_lengths_B"):
        assert torch.equal(getattr(left, name), getattr(right, name)), name


@pytest.mark.parametrize("sampling", [0.0, 0.1])
def test_an_epoch_has_every_pair_once_and_shares_of_the_variants(
    corpus: EncodedCorpus, tokenizers: TokenizerPair, sampling: float
) -> None:
    seen, counted = [], Counter[str]()
    for update in stream_of(corpus, tokenizers, sampling=sampling).updates(Position()):
        for batch in update:
            seen += batch.rows.tolist()
            assert batch.target_tokens == int(batch.target_lengths_B.sum())
            assert not (batch.source_BS == tokenizers.source.unk).any()
            assert not (batch.target_BT == tokenizers.target.unk).any()
            plain = zip(*corpus.text(batch.rows), strict=True)
            for (source, target), (plain_source, plain_target) in zip(texts_of(batch, tokenizers), plain, strict=True):
                case = next(
                    name
                    for name, change in (("title", title_case), ("upper", str.upper), ("plain", str))
                    if change(plain_target) == target
                )
                counted[case] += 1
                typed = {"title": title_case, "upper": str.upper, "plain": str}[case](plain_source) != source
                counted["typos"] += typed
                if typed:
                    assert len(source.split()) == len(plain_source.split())
    assert sorted(seen) == list(range(PAIRS))
    # Short sentences may have title case as they stand, and most sentences of eight words get no typing error.
    assert abs(counted["upper"] / PAIRS - 0.3) < 5 * np.sqrt(0.21 / PAIRS)
    assert counted["title"] / PAIRS > 0.2 - 5 * np.sqrt(0.16 / PAIRS)
    assert 0.05 < counted["typos"] / PAIRS < 0.5


@pytest.mark.parametrize("sampling", [0.0, 0.1])
def test_a_stream_resumes_at_any_update(corpus: EncodedCorpus, tokenizers: TokenizerPair, sampling: float) -> None:
    straight = list(stream_of(corpus, tokenizers, sampling=sampling).updates(Position(2)))
    stream, position = stream_of(corpus, tokenizers, sampling=sampling), Position(2)
    for done in range(len(straight)):
        if done % 5 == 0:
            rest = list(stream_of(corpus, tokenizers, sampling=sampling).updates(position))
            assert len(rest) == len(straight) - done
            for left, right in zip(rest, straight[done:], strict=True):
                assert_same(left[0], right[0])
        position = stream.following(position)
    assert stream.ends_epoch(position)


def test_ranks_share_the_updates_of_one_rank(corpus: EncodedCorpus, tokenizers: TokenizerPair) -> None:
    one = list(stream_of(corpus, tokenizers, accumulation=2).updates(Position(1)))
    two = [list(stream_of(corpus, tokenizers, rank=rank, world=2).updates(Position(1))) for rank in (0, 1)]
    assert len(one) == len(two[0]) == len(two[1])
    for whole, *parts in zip(one, *two, strict=True):
        for left, right in zip(whole, [part[0] for part in parts], strict=True):
            assert_same(left, right)


def test_epochs_draw_anew(corpus: EncodedCorpus, tokenizers: TokenizerPair) -> None:
    stream = stream_of(corpus, tokenizers)
    found = []
    for epoch in (0, 1):
        batches = [batch for update in stream.updates(Position(epoch)) for batch in update]
        rows = [row for batch in batches for row in batch.rows.tolist()]
        texts = [text for batch in batches for text in texts_of(batch, tokenizers)]
        found.append(dict(zip(rows, texts, strict=True)))
    assert sum(found[0][row] != found[1][row] for row in range(PAIRS)) > PAIRS / 3


def test_a_plan_draws_variants_by_its_generator(corpus: EncodedCorpus, tokenizers: TokenizerPair) -> None:
    stream = stream_of(corpus, tokenizers)
    plans = [stream.plan(np.arange(PAIRS), np.random.default_rng(seed)) for seed in (1, 1, 2)]
    first, again, other = ({row % PAIRS: row // PAIRS for row in plan.rows.tolist()} for plan in plans)
    assert sorted(first) == sorted(other) == list(range(PAIRS))
    assert first == again
    assert 0.3 < np.mean([first[row] != other[row] for row in range(PAIRS)]) < 0.9


@pytest.mark.parametrize("variant", [UPPER, TITLE])
def test_a_variant_equals_the_encoded_pair_of_the_changed_text(
    tmp_path: Path, corpus: EncodedCorpus, tokenizers: TokenizerPair, variant: int
) -> None:
    """With its links: words stay where they are."""
    changed = [tuple(change_case(pair, [variant] * 2)) for pair in sentences(PAIRS)]
    other = encode(tmp_path, [(source, target) for source, target in changed], tokenizers, "changed")
    for start in (0, 40, 80):
        rows = np.arange(start, start + 40)
        left = stream_of(corpus, tokenizers, links=True).batch(rows + variant * PAIRS, np.random.SeedSequence(1))
        right = stream_of(other, tokenizers, AugmentationConfig(), links=True).batch(rows, None)
        assert_same(left, right)
        assert left.links is not None
        assert right.links is not None
        for name in ("row_L", "target_L", "source_L", "share_L"):
            assert torch.equal(getattr(left.links, name), getattr(right.links, name)), name
        assert left.links.target_pieces == right.links.target_pieces > 0


def test_typing_errors_follow_the_seeds_and_leave_the_target(corpus: EncodedCorpus, tokenizers: TokenizerPair) -> None:
    stream, rows = stream_of(corpus, tokenizers), np.arange(40)
    first, again, other = (stream.batch(rows + TYPOS * PAIRS, np.random.SeedSequence(seed)) for seed in (1, 1, 2))
    assert_same(first, again)
    assert not torch.equal(first.source_lengths_B, other.source_lengths_B)
    plain = stream.batch(rows, None)
    assert torch.equal(first.target_BT, plain.target_BT)
    texts = zip(texts_of(first, tokenizers), texts_of(plain, tokenizers), strict=True)
    different = sum(typed != source for (typed, _), (source, _) in texts)
    assert 5 < different < 40


def test_augmented_batches_keep_to_their_budget(tmp_path: Path) -> None:
    """An upper-case sentence has more pieces, so that it goes with longer ones."""
    settings = TokenizerConfig(vocabulary_size=70, shared=False)
    spelled = learn(settings, lambda: sentences(400), 1, AugmentationConfig(upper_case=1e-6))
    assert len(spelled.source.encode(["KATZE UND"])[0]) > 3 * len(spelled.source.encode(["Katze und"])[0])
    corpus = encode(tmp_path, sentences(PAIRS), spelled)
    whole = stream_of(corpus, spelled, AugmentationConfig(upper_case=0.5)).updates(Position())
    batches = [batch for update in whole for batch in update]
    sizes = [max(batch.source_BS.numel(), batch.target_BT.numel()) for batch in batches]
    assert np.mean(sizes) < BUDGET
    assert max(sizes) < 1.5 * BUDGET
    assert sum(batch.target_tokens for batch in batches) / sum(batch.target_BT.numel() for batch in batches) > 0.8


def test_the_largest_batch_is_one_of_the_epoch(corpus: EncodedCorpus, tokenizers: TokenizerPair) -> None:
    """In the case that it is planned in."""
    case = AugmentationConfig(upper_case=0.4, title_case=0.1)
    largest = stream_of(corpus, tokenizers, case).largest_batch()
    whole = [batch for update in stream_of(corpus, tokenizers, case).updates(Position()) for batch in update]
    same = [batch for batch in whole if batch.rows.tolist() == largest.rows.tolist()]
    assert same
    assert_same(same[0], largest)


def test_context_alone_is_not_changed(tmp_path: Path, tokenizers: TokenizerPair) -> None:
    pairs = sentences(40)
    documents = encode(tmp_path, pairs, tokenizers, documents=True)
    stream = stream_of(documents, tokenizers, context=DocumentContext(1, sources=True, targets=True))
    batch = stream.batch(np.array([2, 7]) + UPPER * 40, None)
    assert batch.rows.tolist() == [2, 7]
    assert batch.context is not None
    read = batch.context.rows.tolist()
    assert read[:2] == [2, 7]
    assert set(read[2:]) == {0, 1, 5, 6}
    ids, lengths = batch.source_BS.tolist(), batch.source_lengths_B.tolist()
    found = tokenizers.source.decode([row[: length - 1] for row, length in zip(ids, lengths, strict=True)])
    assert found == [pairs[row][0].upper() if row in (2, 7) else pairs[row][0] for row in read]
    updates = list(stream.updates(Position()))
    assert sorted(row for update in updates for batch in update for row in batch.rows.tolist()) == list(range(40))


# Training


def test_a_run_keeps_the_text_and_a_tokenizer_of_elsewhere_is_examined(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_corpus(tmp_path)
    streams, make = [], setup.BatchStream

    def recording(*arguments: object, **options: object) -> BatchStream:
        streams.append(make(*arguments, **options))  # type: ignore[arg-type]
        return streams[-1]

    monkeypatch.setattr(setup, "BatchStream", recording)
    short = ("training.max_steps=2", "data.augmentation={upper_case: 0.4}", f"run={tmp_path}/upper")
    train(run_config(tmp_path, *short, "tokenizer.vocabulary_size=28"))
    assert streams[0].augmentation == AugmentationConfig(upper_case=0.4)
    assert streams[0].text.has_text
    assert "no piece" not in capsys.readouterr().err
    train(run_config(tmp_path, "training.max_steps=2"))
    assert not streams[1].text.has_text
    file = next((tmp_path / "run" / "checkpoints").glob("*/tokenizer.model"))
    train(run_config(tmp_path, *short, f"run={tmp_path}/file", f"tokenizer={{file: {file}}}"))
    assert (
        "data.augmentation: the tokenizer has no piece for A B C D E F G H, which are unknown"
        in capsys.readouterr().err
    )
