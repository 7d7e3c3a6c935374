"""Shortlists: the lexicon against counts made by hand, and the search with a vocabulary for each sentence."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from nmt.cli import average, evaluate, lexicon, translate
from nmt.config.schema import SearchConfig
from nmt.data.cache import EncodedPairs, WeightedRows, flatten, lookup_pairs
from nmt.data.lexicons import LEXICON_FILE, Lexicon, Numbers, TranslationTable, estimate
from nmt.data.tokenizer import TokenizerPair
from nmt.errors import DataError
from nmt.kernels.linear.quantization import Bf16Weight, Int8Weight
from nmt.model.translator import Vocabulary
from nmt.runtime.worker_pool import WorkerPool
from nmt.search import Hypothesis, translate_batch
from nmt.tasks.training import train
from nmt.tasks.translation.loading import TrainedModel, build_system, load_lexicon, load_model
from nmt.tasks.translation.text_translation import Request, translate_lines
from tests.support.commands import Call
from tests.support.models import CPU, REFERENCES, SOURCES
from tests.support.networks import BOS, EOS, REFERENCE, model_options, network, sentences
from tests.support.training_runs import run_config, write_corpus

TARGET = 11
"""Pieces of the networks' target vocabulary."""


class Special:
    pad, unk, bos, eos = 0, 1, BOS, EOS


@dataclass(frozen=True)
class Listed:
    """Pairs in memory."""

    sources: Sequence[Sequence[int]]
    targets: Sequence[Sequence[int]]

    def __len__(self) -> int:
        return len(self.sources)

    def lengths(self, rows: Numbers) -> Any:
        return tuple(np.asarray([len(side[row]) for row in rows], np.int32) for side in (self.sources, self.targets))

    def source(self, rows: Numbers) -> Any:
        return flatten([self.sources[row] for row in rows])

    def is_pair(self, rows: Numbers) -> Any:
        return np.ones(len(rows), np.bool_)

    def target(self, rows: Numbers) -> Any:
        return flatten([self.targets[row] for row in rows])


A, B = 0, 1
X, Y = 0, 1
EMPTY = 2
BY_HAND = Listed([[A], [A, B]], [[X], [X, Y]])
"""a | x and a b | x y."""


def as_dict(table: TranslationTable) -> dict[tuple[int, int], float]:
    entries = zip(table.source.tolist(), table.target.tolist(), table.probability.tolist(), strict=True)
    return {(source, target): probability for source, target, probability in entries}


def test_the_first_iteration_by_hand() -> None:
    """A position counts 1/2 for each of {empty, a}, and 1/3 for each of {empty, a, b}: a x 5/6, a y 1/3, b x 1/3."""
    table = estimate(BY_HAND, 2, 2, iterations=1)
    expected = {(A, X): 5 / 7, (A, Y): 2 / 7, (B, X): 1 / 2, (B, Y): 1 / 2, (EMPTY, X): 5 / 7, (EMPTY, Y): 2 / 7}
    assert as_dict(table) == pytest.approx(expected)
    assert table.occurrences.tolist() == [2, 1]


def test_the_second_iteration_by_hand() -> None:
    """In a b | x y, x is a's with 10/27 and b's with 7/27; y is a's with 4/15 and b's with 7/15. Alone x is 1/2 a's.

    a: x 1/2 + 10/27 = 47/54, y 4/15, so that p(x | a) = 235/307; b: x 7/27, y 7/15, so that p(y | b) = 9/14.
    """
    found = as_dict(estimate(BY_HAND, 2, 2, iterations=2))
    expected = {(A, X): 235 / 307, (A, Y): 72 / 307, (B, X): 5 / 14, (B, Y): 9 / 14}
    assert {key: found[key] for key in expected} == pytest.approx(expected)


WEIGHED = [WeightedRows(0, 1, 3.0), WeightedRows(1, 2, 1.5)]
"""a | x three times in an epoch, a b | x y every time and a half."""


def test_a_pair_counts_by_the_weight_of_its_corpus() -> None:
    """At first a x is 3/2 + 1/2, a y, b x and b y are 1/2: p(x | a) = 4/5.

    Then in a b | x y, with p(x | empty) = 4/5 as well, x is a's with 8/21 and b's with 5/21; y is a's with 2/9 and b's
    with 5/9. a: x 3/2 + 3/2 8/21 = 29/14, y 3/2 2/9 = 1/3; b: x 3/2 5/21 = 5/14, y 3/2 5/9 = 5/6.
    """
    first = estimate(BY_HAND, 2, 2, iterations=1, parts=WEIGHED)
    expected = {(A, X): 4 / 5, (A, Y): 1 / 5, (B, X): 1 / 2, (B, Y): 1 / 2, (EMPTY, X): 4 / 5, (EMPTY, Y): 1 / 5}
    assert as_dict(first) == pytest.approx(expected)
    assert first.occurrences.tolist() == [4.5, 1.5]
    found = as_dict(estimate(BY_HAND, 2, 2, iterations=2, parts=WEIGHED))
    expected = {(A, X): 87 / 101, (A, Y): 14 / 101, (B, X): 3 / 10, (B, Y): 7 / 10}
    assert {key: found[key] for key in expected} == pytest.approx(expected)


def test_a_pair_of_weight_two_is_that_pair_twice() -> None:
    """With blocks of one pair, and with a part without rows."""
    pairs = random_pairs()
    twice = Listed([*pairs.sources, *pairs.sources[200:]], [*pairs.targets, *pairs.targets[200:]])
    parts = [WeightedRows(0, 200, 1.0), WeightedRows(200, 200, 7.0), WeightedRows(200, 300, 2.0)]
    expected = estimate(twice, 20, 15, iterations=3)
    for block in (1 << 21, 200):
        found = estimate(pairs, 20, 15, iterations=3, parts=parts, block=block)
        assert as_dict(found) == pytest.approx(as_dict(expected), rel=1e-9)
        assert found.occurrences.tolist() == expected.occurrences.tolist()


def random_pairs(count: int = 300, source: int = 20, target: int = 15) -> Listed:
    generator = np.random.default_rng(1)

    def rows(size: int, least: int) -> list[list[int]]:
        return [generator.integers(size, size=generator.integers(least, 9)).tolist() for _ in range(count)]

    return Listed(rows(source, 0), rows(target, 0))


def test_the_table_does_not_depend_on_the_blocks() -> None:
    """Empty sides included; of the equations written once more, piece by piece."""
    pairs = random_pairs()
    expected: dict[tuple[int, int], float] = {}
    for iteration in range(3):
        counts: dict[tuple[int, int], float] = {}
        for source, target in zip(pairs.sources, pairs.targets, strict=True):
            for piece in target:
                row = [(word, piece) for word in [*source, 20]]
                weights = [expected[key] if iteration else 1.0 for key in row]
                for key, weight in zip(row, weights, strict=True):
                    counts[key] = counts.get(key, 0.0) + weight / sum(weights)
        totals: dict[int, float] = {}
        for (word, _), count in counts.items():
            totals[word] = totals.get(word, 0.0) + count
        expected = {key: count / totals[key[0]] for key, count in counts.items()}
    for block in (1 << 21, 200):
        assert as_dict(estimate(pairs, 20, 15, iterations=3, block=block)) == pytest.approx(expected, rel=1e-9)


def test_a_large_table_forgets_what_is_rare() -> None:
    pairs = random_pairs(2000)
    whole = estimate(pairs, 20, 15, iterations=1, block=500)
    small = estimate(pairs, 20, 15, iterations=4, block=500, largest=100)
    assert len(whole.source) > 300
    assert 40 <= len(small.source) <= 100
    assert np.isfinite(small.probability).all()
    assert np.bincount(small.source, small.probability).max() == pytest.approx(1.0)


def test_of_a_large_corpus_every_nth_pair_is_read() -> None:
    pairs = random_pairs()
    third = Listed(pairs.sources[::3], pairs.targets[::3])
    assert as_dict(estimate(pairs, 20, 15, iterations=2, most_rows=100)) == as_dict(
        estimate(third, 20, 15, iterations=2)
    )


def some_lexicon(tokenizers: TokenizerPair) -> Lexicon:
    ids = Listed(tokenizers.source.encode(SOURCES), tokenizers.target.encode(REFERENCES))
    table = estimate(ids, tokenizers.source.size, tokenizers.target.size, iterations=5)
    return Lexicon.of(table, 30, tokenizers)


def test_a_lexicon_ranks_candidates_and_fills_up(tokenizers: TokenizerPair) -> None:
    table = TranslationTable(
        np.asarray([4, 4, 4, 5, tokenizers.source.size]),
        np.asarray([6, 7, 8, 9, 10]),
        np.asarray([0.25, 0.5, 0.25, 1.0, 1.0]),
        np.bincount([6, 6, 7, 7, 7, 9], minlength=tokenizers.target.size),
    )
    lexicon = Lexicon.of(table, 3, tokenizers)
    assert lexicon.candidates[4].tolist() == [7, 6, 8]
    assert lexicon.candidates[5].tolist() == [9, -1, -1]
    assert lexicon.frequent[:4].tolist() == [7, 6, 9, 0]
    # One vocabulary for both languages: the source pieces themselves, 4, 5 and 20, are among them.
    assert lexicon.pieces([5, 4, 20], 1, 2).tolist() == [4, 5, 6, 7, 9, 20]


def test_a_lexicon_comes_back_from_its_file(tmp_path: Path, tokenizers: TokenizerPair) -> None:
    lexicon = some_lexicon(tokenizers)
    file = tmp_path / "lexicon.safetensors"
    file.write_bytes(lexicon.to_bytes())
    again = Lexicon.load(file, tokenizers)
    assert again.tokenizers == lexicon.tokenizers
    assert np.array_equal(again.frequent, lexicon.frequent)
    assert np.array_equal(again.candidates, lexicon.candidates)


def lists_of(*lengths: int, size: int = 5) -> list[list[int]]:
    """A few pieces for each sentence, not the same for two."""
    generator = np.random.default_rng(3)
    return [sorted(generator.choice(np.arange(4, TARGET), size - number % 3, False).tolist()) for number in lengths]


def search(
    lists: list[list[int]] | None, *lengths: int, options: SearchConfig, **keywords: Any
) -> list[list[Hypothesis]]:
    models = keywords.pop("models", None) or [network(model_options())]
    source_BS, lengths_B = sentences(*lengths)
    return translate_batch(models, source_BS, lengths_B, options, special=Special(), shortlists=lists, **keywords)


SEARCHES = [
    SearchConfig(kind="greedy", min_length_ratio=1.0),
    SearchConfig(kind="beam", beam_size=4, min_length_ratio=1.0),
    SearchConfig(kind="beam", beam_size=3, no_repeat_ngram=2, min_length_ratio=0.8, allow_unknown=False),
    SearchConfig(kind="sampling", temperature=1.3, min_length_ratio=1.0),
]


@pytest.mark.parametrize("options", SEARCHES)
def test_the_whole_vocabulary_is_no_shortlist(options: SearchConfig) -> None:
    """Bit for bit: pieces, scores and the probabilities of all pieces."""
    whole = [list(range(TARGET))] * 4
    assert search(whole, 5, 2, 7, 3, options=options) == search(None, 5, 2, 7, 3, options=options)


@pytest.mark.parametrize("options", SEARCHES)
def test_all_pieces_are_on_the_sentences_own_list(options: SearchConfig) -> None:
    lists = lists_of(5, 2, 7, 3)
    found = search(lists, 5, 2, 7, 3, options=options)
    for own, hypotheses in zip(lists, found, strict=True):
        assert {piece for each in hypotheses for piece in each.ids} <= {*own, Special.unk}
    # Without the lists something else is found, or nothing would be shown here.
    assert [each[0].ids for each in found] != [each[0].ids for each in search(None, 5, 2, 7, 3, options=options)]


@pytest.mark.parametrize("options", SEARCHES)
def test_a_translation_does_not_depend_on_the_lists_beside(options: SearchConfig) -> None:
    lists, lengths = lists_of(5, 2, 7, 3), (5, 2, 7, 3)
    source_BS, lengths_B = sentences(*lengths)
    models = [network(model_options())]
    together = search(lists, *lengths, options=options, models=models)
    for row, length in enumerate(lengths):
        ((alone,),) = translate_batch(
            models,
            source_BS[row : row + 1, :length],
            lengths_B[row : row + 1],
            options,
            special=Special(),
            shortlists=lists[row : row + 1],
            numbers=[row],
        )
        best = together[row][0]
        assert alone.ids == best.ids
        assert alone.score == pytest.approx(best.score, abs=1e-12)
        assert alone.token_log_probabilities == pytest.approx(best.token_log_probabilities, abs=1e-12)


@torch.no_grad()
def test_probabilities_are_those_among_the_own_pieces() -> None:
    """The score of a hypothesis by stepping over it, with a softmax over the list written out here."""
    lists = lists_of(5, 2)
    ((best,), _) = search(lists, 5, 2, options=SearchConfig(kind="greedy", length_penalty=0.0, min_length_ratio=1.0))
    translator = network(model_options())
    source_BS, lengths_B = sentences(5, 2)
    state = translator.start(translator.encode(source_BS[:1], lengths_B[:1]))
    allowed = torch.tensor([*range(4), *lists[0]])
    for previous, piece, expected in zip((BOS, *best.ids), (*best.ids, EOS), best.token_log_probabilities, strict=True):
        state, logits = translator.step(state, torch.tensor([[previous]]))
        own = logits[0, 0, allowed].log_softmax(0)
        assert float(own[allowed.tolist().index(piece)]) == pytest.approx(expected, abs=1e-12)


def test_a_prefix_is_always_on_the_list() -> None:
    prefix = [[9, 4], [], [10]]
    lists = [[5, 6], [5, 6, 7], [8]]
    found = search(lists, 5, 2, 7, options=SearchConfig(kind="beam", beam_size=3, min_length_ratio=1.0), prefix=prefix)
    for ids, own, hypotheses in zip(prefix, lists, found, strict=True):
        assert list(hypotheses[0].ids[: len(ids)]) == ids
        assert set(hypotheses[0].ids) <= {*ids, *own, Special.unk}


def test_an_ensemble_has_one_list() -> None:
    """Two equal models give the result of one; two different ones give pieces of the shortlist."""
    models = [network(model_options(), seed=seed) for seed in (0, 1)]
    lists = lists_of(5, 2, 7)
    options = SearchConfig(kind="beam", beam_size=3, min_length_ratio=1.0)
    one, twice = (search(lists, 5, 2, 7, options=options, models=models[:1] * times) for times in (1, 2))
    assert [each[0].ids for each in twice] == [each[0].ids for each in one]
    for own, hypotheses in zip(lists, search(lists, 5, 2, 7, options=options, models=models), strict=True):
        assert set(hypotheses[0].ids) <= {*own, Special.unk}


@pytest.mark.parametrize("kind", [Int8Weight, Bf16Weight])
def test_some_outputs_of_a_packed_weight_are_those_of_the_whole(kind: type[Any]) -> None:
    torch.manual_seed(1)
    weight, bias, rows = kind(torch.randn(40, 24)), torch.randn(40), torch.randn(7, 24)
    some = torch.tensor([3, 39, 0])
    part = weight.index_select(0, some)
    assert type(part) is kind
    assert torch.equal(F.linear(rows, part, bias[some]), F.linear(rows, weight, bias)[:, some])


@pytest.mark.parametrize("kind", [Int8Weight, Bf16Weight])
def test_packed_weights_translate_with_a_shortlist(kind: Any) -> None:
    """A shortlist of the whole vocabulary changes nothing; with a shorter one all pieces are from it."""
    kernels, vocabulary = replace(REFERENCE, weights=kind), Vocabulary(13, 40, bos=BOS)
    translator = network(model_options(sizes=(24, 20, 40)), vocabulary=vocabulary, kernels=kernels).float()
    kernels.prepack(translator)
    options = SearchConfig(kind="beam", beam_size=3, min_length_ratio=1.0)

    def found(lists: list[list[int]] | None) -> list[list[Hypothesis]]:
        with torch.autocast("cpu", torch.bfloat16, enabled=kind is Bf16Weight):
            return search(lists, 5, 2, options=options, models=[translator])

    assert found([list(range(40))] * 2) == found(None)
    own = list(range(30, 40))
    assert all(set(best.ids) <= {*own, Special.unk} for (best,) in found([own, own]))


@pytest.mark.parametrize(("weights", "shared"), [(None, False), ("bf16", False), ("int8", False), ("int8", True)])
def test_lines_are_translated_with_a_shortlist(
    model: TrainedModel, weights: Any, shared: bool, checkpoint: Path
) -> None:
    """Finds the references of memorised sentences, in every format and with several processes."""
    trained = load_model(checkpoint, None, replace(CPU, weights=weights))
    system = replace(build_system([trained], CPU), pool=None, lexicon=some_lexicon(trained.tokenizers))
    if shared:
        pool = WorkerPool(2)
        pool.start(system, 2, 1)
        assert pool.workers is not None
        while not pool.workers.ready:
            time.sleep(0.05)
        system = replace(system, pool=pool)
    options = SearchConfig(beam_size=3, shortlist=20, shortlist_frequent=5, batch_tokens=24)
    found = translate_lines(system, SOURCES, options)
    assert [best[0].text for best in found] == [
        best[0].text for best in translate_lines(build_system([model], CPU), SOURCES, SearchConfig(beam_size=3))
    ]
    for line, (best, *_) in zip(SOURCES, found, strict=True):
        assert system.lexicon is not None
        own = system.lexicon.pieces(trained.tokenizers.source.encode([line])[0], 5, 20)
        assert set(best.ids) <= set(own.tolist())
    assert translate_lines(system, SOURCES[:1], options, Request(attention=True))[0][0].attention is not None


# The command, and what a user can get wrong.


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small run with its cache."""
    folder = tmp_path_factory.mktemp("lexicon")
    write_corpus(folder)
    return Path(train_small(folder))


def train_small(folder: Path) -> str:
    config = run_config(folder, "training.max_epochs=1")
    train(config)
    return config.run


def test_the_command_builds_what_a_shortlist_needs(run: Path, call: Call) -> None:
    done = call(translate.main, "--model", run, "--shortlist", "3", stdin=b"a b\n")
    assert done.code == 2
    assert done.errors.count("\n") == 1
    assert "--shortlist" in done.errors
    assert "nmt-lexicon --model" in done.errors
    built = call(lexicon.main, "--model", run, "--candidates", "5", "--iterations", "8")
    assert built.code == 0
    assert built.output == f"{run / LEXICON_FILE}\n"
    done = call(
        translate.main, "--model", run, "--shortlist", "3", "--shortlist-frequent", "2", stdin=b"a b c\n\nd e\n"
    )
    assert done.code == 0
    assert done.output.count("\n") == 3
    files = ("--source", run.parent / "valid.xx", "--reference", run.parent / "valid.yy")
    assert call(evaluate.main, "--model", run, *files, "--shortlist", "4", "--samples", "0").code == 0
    too_many = call(translate.main, "--model", run, "--shortlist", "6", stdin=b"a\n")
    assert too_many.code == 2
    assert "has 5 candidates of a piece, not 6" in too_many.errors
    without = call(translate.main, "--model", run, "--shortlist-frequent", "6", stdin=b"a\n")
    assert without.code == 2
    assert "--shortlist-frequent: has no effect without a shortlist" in without.errors


def test_letters_become_themselves(run: Path, call: Call) -> None:
    """In text that is only turned round the best translation of a letter is the letter."""
    call(lexicon.main, "--model", run, "--iterations", "10")
    tokenizers = TokenizerPair.load(next((run / "checkpoints").glob("step-*")))
    found = load_lexicon([next((run / "checkpoints").glob("step-*"))], tokenizers, 1)
    for letter in "abcdefgh":
        (ids,) = tokenizers.source.encode([letter])
        assert found.candidates[ids[-1], 0] == ids[-1]


@pytest.mark.parametrize(("weight", "shift"), [(1, 0), (3, 1)])
def test_the_command_counts_a_corpus_by_its_weight(weight: int, shift: int, tmp_path: Path, call: Call) -> None:
    """In 120 pairs letters become themselves, in 60 others the next one: which counts more if they are read thrice."""
    (tmp_path / "other").mkdir()
    write_corpus(tmp_path)
    write_corpus(tmp_path / "other", pairs=60, seed=1)
    target = tmp_path / "other" / "train.yy"
    target.write_text(target.read_text().translate(str.maketrans("abcdefgh", "bcdefgha")))
    corpora = [
        f"{{source: {folder}/train.xx, target: {folder}/train.yy, weight: {times}}}"
        for folder, times in ((tmp_path, 1), (tmp_path / "other", weight))
    ]
    config = run_config(tmp_path, "training.max_epochs=1", f"data.train=[{', '.join(corpora)}]")
    train(config)
    assert call(lexicon.main, "--model", config.run, "--iterations", "10").code == 0
    checkpoint = next(Path(config.run).glob("checkpoints/step-*"))
    tokenizers = TokenizerPair.load(checkpoint)
    found = load_lexicon([checkpoint], tokenizers, 1)
    ids = [piece[-1] for piece in tokenizers.source.encode(list("abcdefgh"))]
    assert found.candidates[ids, 0].tolist() == [*ids[shift:], *ids[:shift]]


def test_a_run_goes_on_beside_its_lexicon(run: Path, call: Call) -> None:
    call(lexicon.main, "--model", run)
    train(run_config(run.parent, "training.max_epochs=2"))
    assert (run / LEXICON_FILE).exists()


def test_an_average_takes_the_lexicon_along(run: Path, tmp_path: Path, call: Call) -> None:
    call(lexicon.main, "--model", run)
    assert call(average.main, run, "--last", "1", "--output", tmp_path / "mean").code == 0
    assert (tmp_path / "mean" / LEXICON_FILE).read_bytes() == (run / LEXICON_FILE).read_bytes()
    done = call(translate.main, "--model", tmp_path / "mean", "--shortlist", "3", stdin=b"a b\n")
    assert done.code == 0, done.errors
    (run / LEXICON_FILE).unlink()
    assert call(average.main, run, "--last", "1", "--output", tmp_path / "plain").code == 0
    assert not (tmp_path / "plain" / LEXICON_FILE).exists()


def test_without_the_encoded_text_one_line_says_what_to_do(run: Path, tmp_path: Path, call: Call) -> None:
    shutil.copytree(run, tmp_path / "moved", ignore=shutil.ignore_patterns("cache"))
    config = tmp_path / "moved" / "config.yaml"
    for file in (config, *(tmp_path / "moved" / "checkpoints").glob("step-*/config.yaml")):
        file.write_text(file.read_text().replace(f"run: {run}", f"run: {tmp_path}/other"))
    done = call(lexicon.main, "--model", tmp_path / "moved")
    assert done.code == 2
    assert done.errors.count("\n") == 1
    assert f"the encoded training text is not in {tmp_path}/moved/cache or {tmp_path}/other/cache" in done.errors
    assert f"nmt-train --config {config}" in done.errors


def test_the_cache_is_found_by_its_fingerprint(run: Path) -> None:
    (arrow,) = run.glob("cache/*/pairs.arrow")
    pairs = lookup_pairs(run / "cache", arrow.parent.name)
    assert isinstance(pairs, EncodedPairs)
    assert len(pairs) == 120
    assert lookup_pairs(run / "cache", "0" * 64) is None
    assert lookup_pairs(run / "nothing", arrow.parent.name) is None


def test_a_damaged_lexicon_is_one_clear_line(tmp_path: Path, tokenizers: TokenizerPair) -> None:
    whole = some_lexicon(tokenizers)
    other = Lexicon(whole.frequent, whole.candidates, ("0", "0"))
    short = Lexicon(whole.frequent[:-1], whole.candidates, whole.tokenizers)
    outside = Lexicon(whole.frequent, whole.candidates + tokenizers.target.size, whole.tokenizers)
    file = tmp_path / "lexicon.safetensors"
    for content, problem in (
        (b"", "not a lexicon, or damaged"),
        (whole.to_bytes()[:-100], "not a lexicon, or damaged"),
        (short.to_bytes(), "not a lexicon, or damaged"),
        (outside.to_bytes(), "not a lexicon, or damaged"),
        (other.to_bytes(), "made for other tokenizers"),
        (whole.to_bytes().replace(b'\\"format\\": 1', b'\\"format\\": 7'), "format 7, not 1"),
    ):
        file.write_bytes(content)
        with pytest.raises(DataError) as caught:
            Lexicon.load(file, tokenizers)
        assert len(caught.value.problems) == 1
        assert caught.value.problems[0].startswith(f"{file}: {problem}")
