"""The search against enumeration, hand-computed numbers, and itself."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from nmt.config.schema import SearchConfig
from nmt.errors import CheckpointError, ConfigError
from nmt.search import Hypothesis, coverage_penalty, decoding, length_penalty, translate_batch
from nmt.search.strategies import top_k
from tests.support.networks import model_options, network, sentences

PAD, UNK, BOS, EOS = range(4)
VOCABULARY = 7
CODES = 499


class Special(NamedTuple):
    pad: int = PAD
    unk: int = UNK
    bos: int = BOS
    eos: int = EOS


SPECIAL = Special()


@dataclass(frozen=True)
class TableState:
    """The state of a hypothesis: a hash of its source and its pieces."""

    lengths_B: Tensor
    code_BQ: Tensor
    source_size: int
    attention_BQS: Tensor | None = None

    def select(self, sentences_N: Tensor | None, hypotheses_NQ: Tensor) -> TableState:
        if sentences_N is None:
            sentences_N = torch.arange(len(hypotheses_NQ))
        return replace(
            self, lengths_B=self.lengths_B[sentences_N], code_BQ=self.code_BQ[sentences_N[:, None], hypotheses_NQ]
        )


@pytest.mark.parametrize("pieces", [5, 1023, 1024, 1087, 2000])
def test_the_most_probable_pieces_are_found_by_groups(pieces: int) -> None:
    """For all sizes, values and pieces equal those of `torch.topk`, with forbidden pieces last."""
    generator = torch.Generator().manual_seed(pieces)
    scores = torch.randn(7, 3, pieces, generator=generator)
    scores[0] = -torch.inf
    scores[1, :, 4:] = -torch.inf
    for count in (1, 2, 5, 16):
        expected = scores.topk(min(count, pieces), -1)
        values, found = top_k(scores, count)
        assert torch.equal(values, expected.values)
        assert torch.equal(scores.gather(-1, found), values)
        some = values > -torch.inf
        assert torch.equal(found[some], expected.indices[some])


class TableModel:
    """Draws its log-probabilities, and attention, from a table by the hash of source and previous pieces."""

    def __init__(self, seed: int, attends: bool = True, sharpness: float = 1.0, vocabulary: int = VOCABULARY) -> None:
        generator = torch.Generator().manual_seed(seed)
        logits = torch.randn(CODES, vocabulary, generator=generator, dtype=torch.float64) * sharpness
        self.log_probabilities = logits.log_softmax(-1)
        self.attention = torch.rand(CODES, 32, generator=generator, dtype=torch.float64) if attends else None

    def encode(self, source_BS: Tensor, lengths_B: Tensor) -> TableState:
        weights = torch.arange(3, 3 + source_BS.shape[1]) * 17
        real_BS = torch.arange(source_BS.shape[1]) < lengths_B[:, None]
        return TableState(lengths_B, ((source_BS * weights * real_BS).sum(1) % CODES)[:, None], source_BS.shape[1])

    def start(self, encoded: TableState) -> TableState:
        return encoded

    def step(self, state: TableState, previous_BQ: Tensor) -> tuple[TableState, Tensor]:
        assert state.code_BQ.shape == previous_BQ.shape, "hypotheses and pieces do not belong together"
        code_BQ = (state.code_BQ * 31 + previous_BQ * 7 + 11) % CODES
        attention_BQS = None
        if self.attention is not None:
            real_BS = torch.arange(state.source_size) < state.lengths_B[:, None]
            attention_BQS = self.attention[code_BQ][..., : state.source_size] * real_BS[:, None]
            attention_BQS = attention_BQS / attention_BQS.sum(-1, keepdim=True)
        # Not normalised: a search that takes logits for log-probabilities would show.
        return replace(state, code_BQ=code_BQ, attention_BQS=attention_BQS), self.log_probabilities[code_BQ] + 3.0

    def log_softmax(self, logits: Tensor) -> Tensor:
        return logits.log_softmax(-1)


class AverageModel(TableModel):
    """The average of the tables of two models."""

    def __init__(self, one: TableModel, other: TableModel) -> None:
        self.log_probabilities = ((one.log_probabilities.exp() + other.log_probabilities.exp()) / 2).log()
        self.attention = None


def batch(*sources: Sequence[int]) -> tuple[Tensor, Tensor]:
    width = max(map(len, sources)) + 1
    rows = [[*source, EOS] + [PAD] * (width - 1 - len(source)) for source in sources]
    return torch.tensor(rows), torch.tensor([len(source) + 1 for source in sources])


SOURCES = ([4, 5], [6], [5, 5, 6, 4, 4], [4, 6, 6], [5], [6, 4, 5, 5])


def options(**values: object) -> SearchConfig:
    """Beam search without normalisation that allows three pieces, unless told otherwise."""
    defaults = {"length_penalty": 0.0, "max_length_ratio": 1e-6, "max_length_offset": 3}
    return SearchConfig.model_validate({**defaults, **values})


def terms_of(model: TableModel, source: Sequence[int], ids: Sequence[int]) -> tuple[list[float], Tensor]:
    """Log-probability of each piece and of the end, and attention [T, S], by stepping over a given translation."""
    state = model.start(model.encode(*batch(source)))
    terms, attention = [], []
    for previous, piece in zip([BOS, *ids], [*ids, EOS], strict=True):
        state, logits_BQV = model.step(state, torch.tensor([[previous]]))
        terms.append(float(logits_BQV.log_softmax(-1)[0, 0, piece]))
        if state.attention_BQS is not None:
            attention.append(state.attention_BQS[0, 0])
    return terms, torch.stack(attention) if attention else torch.empty(0)


def enumerate_translations(pieces: Sequence[int] = (UNK, 4, 5, 6), longest: int = 3) -> Iterator[tuple[int, ...]]:
    for length in range(longest + 1):
        yield from itertools.product(pieces, repeat=length)


def ranked(
    model: TableModel, source: Sequence[int], alpha: float = 0.0, beta: float = 0.0, longest: int = 3
) -> list[tuple[float, tuple[int, ...]]]:
    """All translations with their scores, best first, from Wu 2016, equation 14, written with Python's own numbers."""
    scored = []
    for ids in enumerate_translations(longest=longest):
        terms, attention = terms_of(model, source, ids)
        score = sum(terms) / ((5 + len(terms)) / 6) ** alpha
        if beta:
            score += beta * sum(math.log(min(float(attention[:, i].sum()), 1.0)) for i in range(len(source)))
        scored.append((score, ids))
    return sorted(scored, reverse=True)


def found(hypotheses: Sequence[Hypothesis]) -> list[tuple[float, tuple[int, ...]]]:
    return [(hypothesis.score, hypothesis.ids) for hypothesis in hypotheses]


def assert_same(one: Sequence[tuple[float, tuple[int, ...]]], other: Sequence[tuple[float, tuple[int, ...]]]) -> None:
    assert [ids for _, ids in one] == [ids for _, ids in other]
    assert [score for score, _ in one] == pytest.approx([score for score, _ in other], abs=1e-12)


ALL = 4**3 + 4**2 + 4 + 1


class TestEnumeration:
    @pytest.mark.parametrize("alpha", [0.0, 0.6, 1.0, 2.5])
    @pytest.mark.parametrize("n_best", [1, 3, 20])
    def test_a_beam_that_holds_everything_finds_the_best(self, alpha: float, n_best: int) -> None:
        model = TableModel(1)
        found_all = translate_batch(
            [model], *batch(*SOURCES), options(beam_size=ALL, length_penalty=alpha), special=SPECIAL, n_best=n_best
        )
        for source, hypotheses in zip(SOURCES, found_all, strict=True):
            assert_same(found(hypotheses), ranked(model, source, alpha)[:n_best])

    @pytest.mark.parametrize("beta", [0.2, 2.0])
    def test_coverage_penalty(self, beta: float) -> None:
        model = TableModel(2)
        found_all = translate_batch(
            [model],
            *batch(*SOURCES),
            options(beam_size=ALL, length_penalty=0.7, coverage_penalty=beta),
            special=SPECIAL,
            n_best=5,
        )
        for source, hypotheses in zip(SOURCES, found_all, strict=True):
            assert_same(found(hypotheses), ranked(model, source, 0.7, beta)[:5])

    def test_as_many_hypotheses_as_there_are_translations(self) -> None:
        model = TableModel(1)
        [hypotheses] = translate_batch([model], *batch([4]), options(beam_size=200), special=SPECIAL, n_best=200)
        assert_same(found(hypotheses), ranked(model, [4]))
        # All translations of up to three pieces, and those cut off at three have lost what would have followed.
        assert len(hypotheses) == ALL

    def test_lengths_are_ratios_of_the_source_length(self) -> None:
        model = TableModel(3)
        limits = options(
            beam_size=200, min_length_ratio=0.5, max_length_ratio=1.0, max_length_offset=0, allow_unknown=False
        )
        sources = ([4], [5, 6], [4, 4, 5])
        found_all = translate_batch([model], *batch(*sources), limits, special=SPECIAL, n_best=200)
        for source, hypotheses in zip(sources, found_all, strict=True):
            expected = {
                ids
                for ids in enumerate_translations((4, 5, 6))
                if math.ceil(len(source) / 2) <= len(ids) <= len(source)
            }
            assert {hypothesis.ids for hypothesis in hypotheses} == expected
            for hypothesis in hypotheses:
                assert hypothesis.log_probability == pytest.approx(sum(terms_of(model, source, hypothesis.ids)[0]))

    def test_ratios_meet_the_whole_number_they_stand_for(self) -> None:
        """0.07 * 100 is 7.000000000000001 and 0.29 * 100 is 28.999999999999996."""
        model = TableModel(3, attends=False)
        for attracted, limits, source, length in (
            (20.0, {"min_length_ratio": 0.07, "max_length_ratio": 1.0}, [4] * 100, 7),
            (-20.0, {"max_length_ratio": 0.29}, [4] * 100, 29),
        ):
            model.log_probabilities[:, EOS] = attracted
            search = options(kind="greedy", max_length_offset=0, **limits)
            [[hypothesis]] = translate_batch([model], *batch(source), search, special=SPECIAL)
            assert len(hypothesis.ids) == length

    def test_the_empty_source_and_the_empty_translation(self) -> None:
        model = TableModel(4)
        [[hypothesis]] = translate_batch(
            [model], *batch([]), options(max_length_offset=0, coverage_penalty=1.0), special=SPECIAL
        )
        assert hypothesis.ids == ()
        assert hypothesis.token_log_probabilities == pytest.approx(terms_of(model, [], [])[0])
        assert hypothesis.score == pytest.approx(hypothesis.log_probability)

    def test_no_sentences(self) -> None:
        source_BS, lengths_B = batch([4])
        assert translate_batch([TableModel(1)], source_BS[:0], lengths_B[:0], options(), special=SPECIAL) == []


LONG = {"max_length_ratio": 3.0, "max_length_offset": 5}


class TestBeam:
    @pytest.mark.parametrize("alpha", [0.0, 1.0])
    def test_one_hypothesis_is_greedy_search(self, alpha: float) -> None:
        model = TableModel(5)
        one = translate_batch(
            [model], *batch(*SOURCES), options(beam_size=1, length_penalty=alpha, **LONG), special=SPECIAL
        )
        greedy = translate_batch(
            [model], *batch(*SOURCES), options(kind="greedy", length_penalty=alpha, **LONG), special=SPECIAL
        )
        assert one == greedy
        for source, [hypothesis] in zip(SOURCES, greedy, strict=True):
            ids: list[int] = []
            while len(ids) < 3 * len(source) + 5:
                state = model.encode(*batch(source))
                for previous in [BOS, *ids]:
                    state, logits_BQV = model.step(state, torch.tensor([[previous]]))
                logits_BQV[..., [PAD, BOS]] = -math.inf
                best = int(logits_BQV.argmax())
                if best == EOS:
                    break
                ids.append(best)
            assert hypothesis.ids == tuple(ids)

    @pytest.mark.parametrize(
        "values",
        [
            {"kind": "greedy"},
            {"beam_size": 4},
            {"beam_size": 4, "length_penalty": 1.0, "coverage_penalty": 0.3},
            {"beam_size": 3, "length_penalty": 1.0, "no_repeat_ngram": 2, "min_length_ratio": 1.5},
            {"kind": "sampling", "temperature": 1.3, "top_k": 4, "top_p": 0.9},
        ],
    )
    def test_a_sentence_alone_and_in_a_batch(self, values: dict[str, object]) -> None:
        """Bit for bit, whatever the other sentences of the batch."""
        model, n_best = TableModel(6), 1 if values.get("kind") == "greedy" else 3
        search = options(**LONG, **values)
        sources = [*SOURCES, *([4, piece, 5, 6, piece] for piece in (4, 5, 6)), *SOURCES]
        together = translate_batch(
            [model], *batch(*sources), search, special=SPECIAL, n_best=n_best, seed=7, want_attention=True
        )
        for number, source in enumerate(sources):
            [alone] = translate_batch(
                [model],
                *batch(source),
                search,
                special=SPECIAL,
                n_best=n_best,
                seed=7,
                numbers=[number],
                want_attention=True,
            )
            assert alone == together[number]
            for one, other in zip(alone, together[number], strict=True):
                assert one.attention is not None
                assert other.attention is not None
                assert one.attention.shape == (len(one.ids) + 1, len(source) + 1)
                assert (one.attention == other.attention).all()

    def test_results_do_not_depend_on_when_the_device_is_asked(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """On a GPU finished sentences stay for some steps. Their hypotheses must not change."""
        model, search = TableModel(6), options(beam_size=4, length_penalty=1.0, **LONG)
        expected = translate_batch([model], *batch(*SOURCES), search, special=SPECIAL, n_best=4)
        monkeypatch.setattr(decoding, "finish_check_interval", lambda device: 8)
        assert translate_batch([model], *batch(*SOURCES), search, special=SPECIAL, n_best=4) == expected

    def test_scores_are_those_of_the_model(self) -> None:
        model = TableModel(8)
        found_all = translate_batch(
            [model],
            *batch(*SOURCES),
            options(beam_size=4, length_penalty=1.0, coverage_penalty=0.4, **LONG),
            special=SPECIAL,
            n_best=4,
            want_attention=True,
        )
        for source, hypotheses in zip(SOURCES, found_all, strict=True):
            assert hypotheses == sorted(hypotheses, key=lambda hypothesis: -hypothesis.score)
            assert len({hypothesis.ids for hypothesis in hypotheses}) == 4
            for hypothesis in hypotheses:
                terms, attention = terms_of(model, source, hypothesis.ids)
                assert hypothesis.token_log_probabilities == pytest.approx(terms, abs=1e-12)
                assert hypothesis.log_probability == pytest.approx(sum(terms), abs=1e-12)
                assert torch.equal(torch.from_numpy(hypothesis.attention), attention)
                coverage = sum(math.log(min(float(attention[:, i].sum()), 1.0)) for i in range(len(source)))
                assert hypothesis.score == pytest.approx(sum(terms) / ((5 + len(terms)) / 6) + 0.4 * coverage)

    def test_stopping_early_loses_nothing(self) -> None:
        """A live hypothesis that wins only at the maximum length, by little, is continued to there.

        The translations are nothing, with probability 0.4, and six times piece 4, with 0.35. The penalty of the
        second is 2 ** alpha (its seven factors): it wins above alpha = log2(ln 0.35 / ln 0.4) = 0.196. At six
        factors it would from 0.224 on.
        """
        model = TableModel(1)
        code = int(model.encode(*batch([4])).code_BQ)
        model.log_probabilities[:] = -1000.0
        for position, previous in enumerate([BOS, *[4] * 6]):
            code = (code * 31 + previous * 7 + 11) % CODES
            model.log_probabilities[code, EOS if position == 6 else 4] = 0.0
            if position == 0:
                model.log_probabilities[code, [EOS, 4, 5]] = torch.tensor([0.4, 0.35, 0.25]).double().log()
        for alpha, length in ((0.0, 0), (0.19, 0), (0.21, 6), (1.0, 6)):
            search = options(beam_size=5, length_penalty=alpha, max_length_offset=6)
            [[hypothesis]] = translate_batch([model], *batch([4]), search, special=SPECIAL)
            assert len(hypothesis.ids) == length

    def test_finished_sentences_leave_the_batch(self) -> None:
        rows: list[int] = []

        class Watched(TableModel):
            def step(self, state: TableState, previous_BQ: Tensor) -> tuple[TableState, Tensor]:
                rows.append(len(previous_BQ))
                return super().step(state, previous_BQ)

        translate_batch([Watched(6)], *batch(*SOURCES), options(kind="greedy", **LONG), special=SPECIAL)
        assert rows[0] == len(SOURCES)
        assert rows == sorted(rows, reverse=True)
        assert len(set(rows)) > 2

    def test_a_beam_wider_than_the_vocabulary(self) -> None:
        model = TableModel(9, vocabulary=5)
        [hypotheses] = translate_batch(
            [model], *batch([4, 4]), options(beam_size=50, allow_unknown=False, **LONG), special=SPECIAL, n_best=50
        )
        assert {hypothesis.ids for hypothesis in hypotheses} == {(4,) * length for length in range(12)}

    def test_padding_and_beginning_never_occur_and_unknown_only_where_allowed(self) -> None:
        model = TableModel(1)
        model.log_probabilities[:, [PAD, BOS]] += 5.0
        model.log_probabilities[:, UNK] += 4.0
        model.log_probabilities = model.log_probabilities.log_softmax(-1)
        for kind, allowed in itertools.product(("beam", "greedy", "sampling"), (True, False)):
            search = options(kind=kind, allow_unknown=allowed, min_length_ratio=1.0, **LONG)
            hypotheses = itertools.chain(*translate_batch([model], *batch(*SOURCES), search, special=SPECIAL))
            pieces = {piece for hypothesis in hypotheses for piece in hypothesis.ids}
            assert not pieces & {PAD, BOS, EOS}
            assert (UNK in pieces) == allowed

    def test_a_vocabulary_whose_padding_is_the_end(self) -> None:
        model = TableModel(1)
        model.log_probabilities[:, PAD] = -math.inf
        expected = translate_batch([model], *batch(*SOURCES), options(), special=SPECIAL, n_best=3)
        assert translate_batch([model], *batch(*SOURCES), options(), special=Special(pad=EOS), n_best=3) == expected

    def test_more_hypotheses_than_the_beam_holds(self) -> None:
        with pytest.raises(ConfigError, match=r"search\.beam_size: 3 hypotheses cannot give the 4 best"):
            translate_batch([TableModel(1)], *batch([4]), options(beam_size=3), special=SPECIAL, n_best=4)
        with pytest.raises(ConfigError, match=r"search\.kind: greedy search cannot give the 2 best"):
            translate_batch([TableModel(1)], *batch([4]), options(kind="greedy"), special=SPECIAL, n_best=2)

    def test_a_model_that_is_not_finite(self) -> None:
        model = TableModel(1)
        model.log_probabilities[:] = math.nan
        for kind in ("greedy", "beam", "sampling"):
            with pytest.raises(CheckpointError, match="not finite"):
                translate_batch([model], *batch([4], [5]), options(kind=kind), special=SPECIAL)


class TestConstraints:
    @pytest.mark.parametrize("kind", ["beam", "sampling"])
    @pytest.mark.parametrize("size", [1, 2, 3])
    def test_no_ngram_occurs_twice(self, kind: str, size: int) -> None:
        model = TableModel(10)
        model.log_probabilities[:, EOS] -= 4.0
        free, blocked = (
            translate_batch(
                [model],
                *batch(*SOURCES),
                options(kind=kind, no_repeat_ngram=ngram, max_length_offset=20),
                special=SPECIAL,
                n_best=3,
            )
            for ngram in (0, size)
        )

        def repeats(hypothesis: Hypothesis) -> bool:
            ids = hypothesis.ids
            ngrams = [ids[start : start + size] for start in range(len(ids) - size + 1)]
            return len(ngrams) > len(set(ngrams))

        assert any(map(repeats, itertools.chain(*free)))
        assert not any(map(repeats, itertools.chain(*blocked)))

    def test_blocking_leaves_out_exactly_the_repetitions(self) -> None:
        model = TableModel(11)
        [hypotheses] = translate_batch(
            [model], *batch([5, 4]), options(beam_size=ALL, no_repeat_ngram=1), special=SPECIAL, n_best=ALL
        )
        expected = [(score, ids) for score, ids in ranked(model, [5, 4]) if len(set(ids)) == len(ids)]
        assert_same(found(hypotheses), expected)

    def test_when_everything_would_repeat_the_sentence_ends(self) -> None:
        model = TableModel(11)
        search = options(no_repeat_ngram=1, min_length_ratio=4.0, max_length_ratio=5.0)
        [[hypothesis]] = translate_batch([model], *batch([5, 4]), search, special=SPECIAL)
        assert sorted(hypothesis.ids) == [UNK, 4, 5, 6]

    @pytest.mark.parametrize("kind", ["greedy", "beam", "sampling"])
    def test_prefix(self, kind: str) -> None:
        """A prefix takes precedence over every other constraint, and is scored as the model scores it."""
        model = TableModel(12)
        prefixes = [[4, 4], [], [5], [BOS, 6, 6, 6, 6], [6], []]
        found_all = translate_batch(
            [model], *batch(*SOURCES), options(kind=kind, no_repeat_ngram=1), special=SPECIAL, prefix=prefixes
        )
        assert found_all[3][0].ids == (BOS, 6, 6, 6, 6)
        for source, prefix, [hypothesis] in zip(SOURCES, prefixes, found_all, strict=True):
            assert hypothesis.ids[: len(prefix)] == tuple(prefix)
            assert hypothesis.token_log_probabilities == pytest.approx(terms_of(model, source, hypothesis.ids)[0])

    def test_the_best_translation_that_begins_so(self) -> None:
        model = TableModel(12)
        found_all = translate_batch(
            [model], *batch([4, 5], [6]), options(beam_size=ALL), special=SPECIAL, n_best=ALL, prefix=[[5], [6, 4]]
        )
        for source, prefix, hypotheses in zip(([4, 5], [6]), ((5,), (6, 4)), found_all, strict=True):
            expected = [(score, ids) for score, ids in ranked(model, source) if ids[: len(prefix)] == prefix]
            assert_same(found(hypotheses), expected)


class TestPenalties:
    def test_length(self) -> None:
        """(5 + 7) / 6 = 2; the penalty of one piece is always 1."""
        assert length_penalty(7.0, 1.0) == 2.0
        assert length_penalty(7.0, 3.0) == 8.0
        assert length_penalty(1.0, 0.7) == 1.0
        assert length_penalty(99.0, 0.0) == 1.0

    def test_coverage(self) -> None:
        """0.5 (ln 0.5 + ln 1 + ln 0.25) = 0.5 ln 0.125; the second sentence has one piece, the rest does not count."""
        attention_BQS = torch.tensor([[[0.5, 1.75, 0.25, 0.5]], [[0.1, 0.2, 0.0, 0.0]]], dtype=torch.float64)
        penalty_BQ = coverage_penalty(attention_BQS, torch.tensor([3, 1]), 0.5)
        assert penalty_BQ.flatten().tolist() == pytest.approx([0.5 * math.log(0.125), 0.5 * math.log(0.1)])

    def test_a_position_that_is_never_looked_at(self) -> None:
        penalty_BQ = coverage_penalty(torch.zeros(1, 1, 2), torch.tensor([1]), 1.0)
        assert float(penalty_BQ) == pytest.approx(math.log(1e-10), rel=1e-5)

    def test_coverage_needs_attention(self) -> None:
        with pytest.raises(ConfigError, match=r"search\.coverage_penalty: the model has no attention"):
            translate_batch([TableModel(1, attends=False)], *batch([4]), options(coverage_penalty=0.1), special=SPECIAL)

    def test_without_attention_there_is_none(self) -> None:
        [[hypothesis]] = translate_batch(
            [TableModel(1, attends=False)], *batch([4]), options(), special=SPECIAL, want_attention=True
        )
        assert hypothesis.attention is None


class TestEnsemble:
    def test_of_a_model_with_itself(self) -> None:
        model, search = TableModel(13), options(length_penalty=1.0, coverage_penalty=0.2, **LONG)
        alone = translate_batch([model], *batch(*SOURCES), search, special=SPECIAL, n_best=3)
        thrice = translate_batch([model] * 3, *batch(*SOURCES), search, special=SPECIAL, n_best=3)
        for one, other in zip(alone, thrice, strict=True):
            assert_same(found(one), found(other))

    def test_averages_probabilities_and_the_attention_that_there_is(self) -> None:
        one, other, blind = TableModel(14), TableModel(15), TableModel(16, attends=False)
        search = options(length_penalty=0.5, **LONG)
        average = translate_batch([AverageModel(one, other)], *batch(*SOURCES), search, special=SPECIAL, n_best=4)
        together = translate_batch(
            [one, other], *batch(*SOURCES), search, special=SPECIAL, n_best=4, want_attention=True
        )
        for source, expected, hypotheses in zip(SOURCES, average, together, strict=True):
            assert_same(found(hypotheses), found(expected))
            for hypothesis in hypotheses:
                mean = (terms_of(one, source, hypothesis.ids)[1] + terms_of(other, source, hypothesis.ids)[1]) / 2
                assert torch.allclose(torch.from_numpy(hypothesis.attention), mean, atol=1e-15)

        [[hypothesis]] = translate_batch([blind, one], *batch([4, 5]), search, special=SPECIAL, want_attention=True)
        assert torch.equal(torch.from_numpy(hypothesis.attention), terms_of(one, [4, 5], hypothesis.ids)[1])


class TestSampling:
    DRAWS = 6000

    def draw(self, model: TableModel, **values: object) -> Counter[tuple[int, ...]]:
        search = options(kind="sampling", max_length_offset=2, **values)
        [hypotheses] = translate_batch([model], *batch([4, 5]), search, special=SPECIAL, n_best=self.DRAWS, seed=3)
        assert len(hypotheses) == self.DRAWS
        return Counter(hypothesis.ids for hypothesis in hypotheses)

    def distribution(self, model: TableModel, temperature: float, top_k: int, top_p: float) -> dict:
        """Probability of every translation of up to two pieces, worked out piece by piece from the definitions."""
        distribution: dict[tuple[int, ...], float] = {}
        for ids in enumerate_translations(longest=2):
            probability = 1.0
            for position, piece in enumerate([*ids, EOS]):
                if position == 2:
                    break
                logs = {p: terms_of(model, [4, 5], [*ids[:position], p])[0][position] for p in (UNK, 4, 5, 6)}
                logs[EOS] = terms_of(model, [4, 5], ids[:position])[0][position]
                order = sorted(logs, key=lambda p: -logs[p])
                weights = {p: math.exp(logs[p] / temperature) for p in order[: top_k or None]}
                total = sum(weights.values())
                kept: dict[int, float] = {}
                for p, weight in weights.items():
                    if sum(kept.values()) / total < top_p:
                        kept[p] = weight
                probability *= kept.get(piece, 0.0) / sum(kept.values())
            if probability:
                distribution[ids] = probability
        return distribution

    @pytest.mark.parametrize(
        ("temperature", "top_k", "top_p"),
        [(1.0, 0, 1.0), (0.5, 0, 1.0), (2.0, 0, 1.0), (1.0, 3, 1.0), (1.0, 0, 0.8), (1.5, 4, 0.9)],
    )
    def test_frequencies(self, temperature: float, top_k: int, top_p: float) -> None:
        model = TableModel(17, sharpness=0.6)
        expected = self.distribution(model, temperature, top_k, top_p)
        assert sum(expected.values()) == pytest.approx(1.0)
        counts = self.draw(model, temperature=temperature, top_k=top_k, top_p=top_p)
        assert set(counts) <= set(expected), "drew what cannot be drawn"
        likely = {ids: p * self.DRAWS for ids, p in expected.items() if p * self.DRAWS >= 5}
        assert len(likely) >= 4
        statistic = sum((counts[ids] - mean) ** 2 / mean for ids, mean in likely.items())
        # Mean of the chi-square distribution plus four standard deviations.
        assert statistic < len(likely) + 4 * math.sqrt(2 * len(likely))

    def test_one_candidate_is_greedy_search(self) -> None:
        model = TableModel(18)
        greedy = translate_batch([model], *batch(*SOURCES), options(kind="greedy", **LONG), special=SPECIAL)
        for values in ({"top_k": 1}, {"top_p": 1e-9}, {"temperature": 1e-6}):
            search = options(kind="sampling", **LONG, **values)
            assert translate_batch([model], *batch(*SOURCES), search, special=SPECIAL) == greedy

    def test_draws_depend_on_the_seed_and_the_number_of_the_sentence(self) -> None:
        model, search = TableModel(19), options(kind="sampling", max_length_offset=12)
        model.log_probabilities[:, EOS] -= 6.0

        def draw(seed: int, number: int) -> list[Hypothesis]:
            return translate_batch([model], *batch([4, 5]), search, special=SPECIAL, seed=seed, numbers=[number])[0]

        assert draw(1, 0) == draw(1, 0)
        assert draw(1, 0) != draw(2, 0)
        assert draw(1, 0) != draw(1, 1)

    def test_longer_than_one_block_of_draws(self) -> None:
        model = TableModel(20, attends=False)
        model.log_probabilities[:, EOS] -= 30.0
        search = options(kind="sampling", max_length_offset=200)
        found_all = translate_batch([model], *batch([4], [5]), search, special=SPECIAL, seed=1)
        for [hypothesis] in found_all:
            assert len(hypothesis.ids) == 200
            assert len(set(zip(hypothesis.ids[:64], hypothesis.ids[64:128], strict=True))) > 4


class TestTranslator:
    """The same for a real network, in float64."""

    @pytest.mark.parametrize(
        "parts",
        [
            {},
            {"score": "none"},
            {"cell": "lstm", "decoder_layers": 2},
            {"cell": "rnn", "layer_normalization": True},
            {"alignment": "latent"},
            {"alignment": "latent", "top_k": 2, "wiring": "conditional"},
            {"lexical": True},
        ],
    )
    def test_scores_are_those_of_the_whole_translation_at_once(self, parts: dict[str, object]) -> None:
        translator = network(model_options(**parts))
        source_BS, lengths_B = sentences(5, 2, 9, 1, 9)
        found_all = translate_batch(
            [translator],
            source_BS,
            lengths_B,
            SearchConfig(beam_size=4, length_penalty=0.8),
            special=SPECIAL,
            n_best=4,
            want_attention=True,
        )
        for source_S, length, hypotheses in zip(source_BS, lengths_B, found_all, strict=True):
            assert len({hypothesis.ids for hypothesis in hypotheses}) == 4
            for hypothesis in hypotheses:
                target_1T = torch.tensor([[*hypothesis.ids, EOS]])
                with torch.no_grad():
                    encoded = translator.encode(source_S[None, :length], length[None])
                    readout, weights = translator.readout(encoded, target_1T)
                    logits_1TV = translator.logits(readout, translator.annotation_terms(encoded), weights)
                    logs_1TV = logits_1TV.log_softmax(-1)
                terms_T = logs_1TV.gather(2, target_1T[..., None]).flatten()
                assert hypothesis.token_log_probabilities == pytest.approx(terms_T.tolist(), abs=1e-12)
                assert hypothesis.score == pytest.approx(float(terms_T.sum()) / ((5 + len(terms_T)) / 6) ** 0.8)
                if weights is None:
                    assert hypothesis.attention is None
                else:
                    assert torch.allclose(torch.from_numpy(hypothesis.attention), weights.mean()[0], atol=1e-12)

    @pytest.mark.parametrize("kind", ["greedy", "beam", "sampling"])
    def test_a_sentence_alone_and_in_a_batch(self, kind: str) -> None:
        """Alone it is scored in products of other shapes, so equal up to rounding."""
        translators = [network(model_options(), seed=1), network(model_options(score="none", cell="lstm"), seed=2)]
        source_BS, lengths_B = sentences(7, 3, 1, 12, 4)
        search = SearchConfig(kind=kind, beam_size=3, max_length_offset=5)
        together = translate_batch(translators, source_BS, lengths_B, search, special=SPECIAL, seed=5)
        for number, (source_S, length) in enumerate(zip(source_BS, lengths_B, strict=True)):
            [alone] = translate_batch(
                translators, source_S[None, :length], length[None], search, special=SPECIAL, seed=5, numbers=[number]
            )
            assert_same(found(alone), found(together[number]))
