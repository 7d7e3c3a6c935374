"""How a translation is found: greedy, beam search or sampling, over `encode`, `start`, `step` and `select` alone.

Shapes: B sentences, S source positions, Q hypotheses of a sentence, V vocabulary (or a sentence's own
pieces), N sentences that stay, C candidates.
"""

from nmt.search.ensemble import Model, State
from nmt.search.penalties import coverage_penalty, length_penalty
from nmt.search.result import Hypothesis
from nmt.search.shortlist import SpecialIds
from nmt.search.translation import translate_batch

__all__ = ["Hypothesis", "Model", "SpecialIds", "State", "coverage_penalty", "length_penalty", "translate_batch"]
