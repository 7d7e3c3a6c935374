"""Beam search of a sentence step by step: hypotheses, candidates, attention and states, with interventions.

It is the search of `translate_lines`, observed. Shapes: H hypotheses, N heads, S source pieces and the end symbol, T
pieces of a hypothesis, V vocabulary, C memory features, A decoder state, R readout.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from nmt.config.schema import SearchConfig
from nmt.data.tokenizer import Tokenizer
from nmt.errors import ConfigError
from nmt.model.attention.base import spread
from nmt.search import Decoding, DecodingStep
from nmt.tasks.translation.loading import System
from nmt.tasks.translation.text_translation import pad_sources

Array = npt.NDArray[Any]
FREE = -1
"""In forced pieces: the search chooses."""


@dataclass(frozen=True)
class Candidate:
    """A piece that may continue a hypothesis."""

    piece: str
    id: int
    log_probability: float
    """Of the piece, as the model gives it."""
    total: float
    """Of the hypothesis with this piece."""
    kept: int | None
    """Index, among the hypotheses after the step, of the one that it makes; None: it was pruned."""
    is_allowed: bool
    """Whether prefix, length and other constraints allow it."""


@dataclass(frozen=True)
class BeamHypothesis:
    """A partial translation, or one that has ended."""

    pieces: tuple[str, ...]
    """So far, without the end symbol."""
    ids: tuple[int, ...]
    text: str
    log_probability: float
    """Of the pieces, and of the end symbol if it has ended."""
    piece_log_probabilities: tuple[float, ...]
    """Of each piece and, of one that has ended, last of the end symbol."""
    parent: int | None
    """Index, among the hypotheses after the step before, of the one that it continues; None for the empty one."""
    score: float | None = None
    """Final score, of one that has ended: log-probability over the length penalty, plus the coverage penalty."""
    attention: Array | None = field(default=None, compare=False, repr=False)
    """Attention weights [N, T, S] with which each of its pieces was predicted; None without attention."""

    @property
    def has_ended(self) -> bool:
        return self.score is not None


@dataclass(frozen=True)
class Internals:
    """The numbers behind a step, in the notation of Bahdanau 2015; i is the position, j a source position.

    Rows h are those of the hypotheses before the step; those that have ended are zero.
    """

    annotations: Array
    """h_j, [S, C], the same at every step."""
    previous_state: Array
    """s_{i-1}, [H, A]: hidden state of the top decoder layer before the step."""
    state: Array
    """s_i, [H, A]: after the step."""
    query: Array | None
    """State that attention compares with the source, [H, A]: its choice is the wiring's. None without attention."""
    energies: Array | None
    """e_ij, [H, N, S]: scores before normalisation, minus infinity outside a window; None without a score."""
    weights: Array | None
    """alpha_ij, [H, N, S], an intervention included."""
    context: Array
    """c_i, [H, C]."""
    centers: Array | None
    """p_t of a local window, [H, N], counted from 0 (Luong 2015, section 3.2); None for a global one."""
    half_width: int | None
    """D of a local window."""
    readout: Array
    """Input of the vocabulary projection, [H, R]; of a latent alignment its terms of the target position."""


@dataclass(frozen=True)
class SearchStep:
    """A step of the search: every live hypothesis is continued by a piece."""

    position: int
    """Pieces of a hypothesis before the step."""
    source_pieces: tuple[str, ...]
    """S - 1 of them: the last source position is the end symbol."""
    before: tuple[BeamHypothesis, ...]
    """Hypotheses after the step before; at first the empty one."""
    candidates: tuple[tuple[Candidate, ...], ...]
    """Of each hypothesis before: its most probable pieces, and all that were kept, in this order; none if it had
    ended."""
    hypotheses: tuple[BeamHypothesis, ...]
    """Those that are kept, the most probable first; some may have ended."""
    finished: tuple[BeamHypothesis, ...]
    """All that have ended so far, best first; `parent` is that of the step in which they ended."""
    attention: Array | None = field(default=None, compare=False, repr=False)
    """Attention weights [H, N, S] of the hypotheses before, 0 for those that had ended; None without attention."""
    internals: Internals | None = field(default=None, compare=False, repr=False)
    """None unless requested."""


@dataclass(frozen=True)
class Interventions:
    """Changes of a search."""

    pieces: Sequence[int] = ()
    """Ids of pieces that all hypotheses take at the first positions; `FREE` leaves the choice to the search."""
    attention: Mapping[int, Array] = field(default_factory=dict)
    """By position: the weights of this step, [S], [N, S] or [H, N, S]."""


def search_steps(
    system: System,
    source: Sequence[int],
    search: SearchConfig,
    interventions: Interventions,
    *,
    n_best: int = 1,
    candidates: int = 5,
    internals: bool = False,
    seed: int = 1,
) -> Iterator[SearchStep]:
    """Yields the steps of a search for the translation of a sentence of these pieces, without the end symbol.

    Without interventions its best hypotheses and scores are those of `translate_lines`, to the bit.

    Args:
        n_best: best hypotheses for which the search goes on.
        candidates: most probable pieces of each hypothesis.
        internals: whether steps have the numbers behind them, which a single model has.
        seed: of sampling.

    Raises:
        ConfigError: an intervention does not fit, or the search needs attention that the model lacks.
        CheckpointError: the model gives no finite probabilities.
    """
    if not source:
        return
    run = _Run(system, source, search, interventions, n_best, candidates, internals, seed)
    while True:
        # A block for each step: a generator that is suspended must not change what runs meanwhile.
        with torch.inference_mode(), system.runtime.autocast():
            step = run.next()
        if step is None:
            return
        yield step


class _Run:
    """A search, with the hypotheses of its last step."""

    def __init__(
        self,
        system: System,
        source: Sequence[int],
        search: SearchConfig,
        interventions: Interventions,
        n_best: int,
        candidates: int,
        internals: bool,
        seed: int,
    ) -> None:
        tokenizers = system.tokenizers
        self.translators, self.tokenizer = system.translators, tokenizers.target
        self.interventions, self.candidates, self.wants_internals = interventions, candidates, internals
        self.source_pieces = tuple(tokenizers.source.pieces(source))
        shortlists = None
        if search.shortlist:
            assert system.lexicon is not None, "the system was built for another search"
            shortlists = [system.lexicon.pieces(source, search.shortlist_frequent, search.shortlist)]
        source_BS, lengths_B = pad_sources([source], tokenizers.source.eos, tokenizers.source.pad)
        source_BS = source_BS.to(system.runtime.device)
        with torch.inference_mode(), system.runtime.autocast():
            self.decoding = Decoding.start(
                self.translators,
                source_BS,
                lengths_B,
                search,
                special=self.tokenizer,
                n_best=n_best,
                prefix=[interventions.pieces] if interventions.pieces else None,
                shortlists=shortlists,
                seed=seed,
                numbers=[1],
            )
            self.annotations = self.translators[0].encode(source_BS, lengths_B).memory_BSC[0] if internals else None
        self.steps = self.decoding.steps(observe=True, attend=self._attend)
        self.hypotheses: tuple[BeamHypothesis, ...] = (BeamHypothesis((), (), "", 0.0, (), None),)
        self.finished: list[BeamHypothesis] = []
        self.rows = [0]
        """Row of each hypothesis in the tensors of the search."""
        self.width = 1
        """Rows of these tensors."""
        self.is_finished = False

    def next(self) -> SearchStep | None:
        """Returns the next step; None after the last one."""
        # On a GPU a search goes on for some steps after its end.
        observed = None if self.is_finished else next(self.steps, None)
        if observed is None:
            return None
        before, before_rows = self.hypotheses, self.rows
        weights_BQNS = self.decoding.ensemble.head_attention_BQNS
        attention = None if weights_BQNS is None else self._by_hypothesis(weights_BQNS)
        internals = self._internals(observed, attention) if self.wants_internals else None
        self._extend(observed, attention)
        self.is_finished = bool(observed.finished_B[0])
        return SearchStep(
            observed.position,
            self.source_pieces,
            before,
            tuple(
                () if hypothesis.has_ended else self._candidates(observed, row, index, hypothesis)
                for index, (row, hypothesis) in enumerate(zip(before_rows, before, strict=True))
            ),
            self.hypotheses,
            tuple(self.finished),
            attention,
            internals,
        )

    def _attend(self, position: int) -> Tensor | None:
        """Returns the weights of an intervention, for all rows of the search; None for the model's own."""
        given = self.interventions.attention.get(position)
        if given is None:
            return None
        if given.ndim < 3:
            return torch.from_numpy(given).expand(1, 1, *((1,) * (2 - given.ndim)), *given.shape)
        if len(given) != len(self.rows):
            raise ConfigError(
                f"attention: the weights at position {position} are of {len(given)} hypotheses, and there are "
                f"{len(self.rows)}; give one array for all, or one for each"
            )
        rows_BQNS = torch.zeros((1, self.width, *given.shape[1:]), dtype=torch.float64)
        rows_BQNS[0, self.rows] = torch.from_numpy(given).double()
        return rows_BQNS

    def _extend(self, observed: DecodingStep, attention: Array | None) -> None:
        """Makes the hypotheses after a step."""
        chosen, before = observed.chosen, self.hypotheses
        index_of = {row: index for index, row in enumerate(self.rows)}
        self.width = chosen.totals_BQ.shape[1]
        columns = (
            chosen.parents_BQ,
            self._ids(chosen.pieces_BQ),
            chosen.log_probabilities_BQ,
            chosen.totals_BQ,
            observed.ends_BQ,
            observed.final_BQ,
        )
        rows, after = [], []
        for row, (parent_row, id_, log_probability, total, ends, final) in enumerate(
            zip(*(column[0].tolist() for column in columns), strict=True)
        ):
            if total == float("-inf"):  # fewer hypotheses than the beam
                continue
            index = index_of[parent_row]
            parent = before[index]
            ids = parent.ids if ends else (*parent.ids, id_)
            weights = None
            if attention is not None:
                parts = [] if parent.attention is None else [parent.attention]
                weights = np.concatenate([*parts, attention[index][:, None]], 1)
            hypothesis = BeamHypothesis(
                tuple(self.tokenizer.pieces(ids)),
                ids,
                self.tokenizer.decode([ids])[0],
                total,
                (*parent.piece_log_probabilities, log_probability),
                index,
                final if ends else None,
                weights,
            )
            rows.append(row)
            after.append(hypothesis)
        self.rows, self.hypotheses = rows, tuple(after)
        ended = [*self.finished, *(each for each in after if each.has_ended)]
        self.finished = sorted(ended, key=lambda each: -(each.score or 0.0))

    def _candidates(
        self, observed: DecodingStep, row: int, index: int, hypothesis: BeamHypothesis
    ) -> tuple[Candidate, ...]:
        """Returns the most probable pieces of a hypothesis, and those that were kept."""
        own_V, allowed_V = observed.own_BQV[0, row], observed.scores_BQV[0, row]
        best = own_V.topk(min(self.candidates, len(own_V))).indices
        pieces_Q = observed.chosen.pieces_BQ[0]
        kept: dict[int, int] = {}
        for number, (row_after, after) in enumerate(zip(self.rows, self.hypotheses, strict=True)):
            if after.parent == index:
                kept.setdefault(int(pieces_Q[row_after]), number)
        columns = list(dict.fromkeys([*best.tolist(), *kept]))
        log_probabilities, allowed = own_V[columns].tolist(), (allowed_V[columns] > float("-inf")).tolist()
        ids = self._ids(torch.tensor([columns], device=own_V.device))[0].tolist()
        made = (
            Candidate(piece, id_, term, hypothesis.log_probability + term, kept.get(column), is_allowed)
            for piece, id_, column, term, is_allowed in zip(
                self.tokenizer.pieces(ids), ids, columns, log_probabilities, allowed, strict=True
            )
        )
        return tuple(sorted(made, key=lambda each: -each.log_probability))

    def _ids(self, pieces_BQ: Tensor) -> Tensor:
        """Returns the ids of the vocabulary: within a search with a shortlist, pieces are its indices."""
        shortlists = self.decoding.shortlists
        if shortlists is None:
            return pieces_BQ
        return torch.tensor([shortlists.vocabulary_ids(0, pieces_BQ[0].tolist())])

    def _by_hypothesis(self, values_BQX: Tensor) -> Array:
        """Returns the values of the hypotheses before the step, zero for those that have ended."""
        values: Array = values_BQX[0, self.rows].float().cpu().numpy()
        values[[each.has_ended for each in self.hypotheses]] = 0.0
        return values

    def _internals(self, observed: DecodingStep, weights: Array | None) -> Internals:
        """Returns the numbers behind a step of a single model."""
        before, after = observed.states[0], self.decoding.ensemble.states[0]
        assert after.attended is not None, "a step attends"
        assert after.readout_BQR is not None, "a step has a readout"
        assert self.annotations is not None, "encoded for the internals"
        attended, positions = after.attended, after.weights
        energies = centers = None
        if attended.scores_BQNW is not None and positions is not None:
            least = torch.finfo(attended.scores_BQNW.dtype).min
            energies_BQNS = spread(attended.scores_BQNW, positions.positions_BQNW, positions.source_positions, least)
            energies = self._by_hypothesis(energies_BQNS.masked_fill(energies_BQNS == least, -torch.inf))
        if positions is not None and positions.centers_BQN is not None:
            centers = self._by_hypothesis(positions.centers_BQN)
        top = self.translators[0].decoder.wiring.top
        return Internals(
            self.annotations.float().cpu().numpy(),
            self._by_hypothesis(top(before.recurrent)),
            self._by_hypothesis(top(after.recurrent)),
            None if attended.query_BQH is None else self._by_hypothesis(attended.query_BQH),
            energies,
            weights,
            self._by_hypothesis(attended.context_BQC),
            centers,
            None if positions is None else positions.half_width,
            self._by_hypothesis(after.readout_BQR),
        )


def forced_ids(tokenizer: Tokenizer, prefix: str | Sequence[str | int], pieces: Mapping[int, str | int]) -> list[int]:
    """Returns the ids of a prefix, and of pieces by position; `FREE` between them.

    A prefix is text or pieces; a piece is that of the vocabulary or its id. Raises `ConfigError` for another one, and
    for the end symbol.
    """
    if isinstance(prefix, str):
        ids = tokenizer.encode([prefix])[0]
    else:
        ids = [_id_of(tokenizer, each, "prefix") for each in prefix]
    for position, piece in pieces.items():
        _require_position(position, "pieces")
        ids += [FREE] * (position + 1 - len(ids))
        ids[position] = _id_of(tokenizer, piece, "pieces")
    return ids


def _id_of(tokenizer: Tokenizer, piece: str | int, argument: str) -> int:
    id_ = tokenizer.piece_id(piece) if isinstance(piece, str) else piece
    if id_ is None:
        raise ConfigError(f"{argument}: {piece!r} is no piece of the vocabulary; give one of `candidates`")
    if not 0 <= id_ < tokenizer.size or id_ in (tokenizer.eos, tokenizer.bos):
        raise ConfigError(f"{argument}: {piece!r} is no id of a piece within a translation; give one of `candidates`")
    return id_


def forced_weights(
    attention: Mapping[int, int | npt.ArrayLike], source: int, heads: Collection[int] = ()
) -> dict[int, Array]:
    """Returns attention weights of interventions by position; raises `ConfigError` where they do not fit.

    Args:
        attention: the source position that has all the weight, or weights [S], [N, S] or [H, N, S].
        source: number of source positions, the end symbol included.
        heads: numbers of heads of the models.
    """
    return {position: _weights(position, given, source, heads) for position, given in attention.items()}


def _weights(position: int, given: int | npt.ArrayLike, source: int, heads: Collection[int]) -> Array:
    _require_position(position, "attention")
    if isinstance(given, (int, np.integer)):
        if not 0 <= given < source:
            raise ConfigError(
                f"attention: source position {given} at position {position}; there are 0 to {source - 1}, the end "
                "symbol last"
            )
        one: Array = np.eye(source)[given]
        return one
    where = f"attention: the weights at position {position}"
    try:
        weights = np.array(given, np.float64)
    except (TypeError, ValueError):
        raise ConfigError(f"{where} must be numbers") from None
    shape: tuple[int, ...] = weights.shape
    has_heads = len(shape) > 1 and shape[-2] != 1
    if len(shape) not in (1, 2, 3) or shape[-1] != source or (has_heads and set(heads) != {shape[-2]}):
        raise ConfigError(
            f"{where} have the shape {shape}; give one for each of {source} source positions, the end symbol included, "
            "or of each head"
        )
    if not (np.isfinite(weights).all() and (weights >= 0.0).all()):
        raise ConfigError(f"{where} must be finite and not negative")
    return weights


def _require_position(position: object, argument: str) -> None:
    if isinstance(position, bool) or not isinstance(position, int) or position < 0:
        raise ConfigError(f"{argument}: {position!r} is no position; positions are whole numbers from 0")
