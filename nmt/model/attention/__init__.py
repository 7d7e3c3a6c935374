"""The attentions. A mechanism is a file in this folder and a line here."""

from nmt.model.attention import (
    additive,
    concat,
    cosine,
    coverage,
    dot,
    general,
    global_window,
    linguistic_coverage,
    local_monotonic,
    local_predictive,
    location,
    mean,
    neural_coverage,
    none,
    scaled_dot,
)
from nmt.model.attention.base import COVERAGES, SCORES, WINDOWS, Attention, Look, Prepared
from nmt.model.attention.encoded import Encoded, Summary
from nmt.model.attention.soft import build_attention
from nmt.model.attention.weights import AttentionWeights

__all__ = [
    "COVERAGES",
    "SCORES",
    "WINDOWS",
    "Attention",
    "AttentionWeights",
    "Encoded",
    "Look",
    "Prepared",
    "Summary",
    "additive",
    "build_attention",
    "concat",
    "cosine",
    "coverage",
    "dot",
    "general",
    "global_window",
    "linguistic_coverage",
    "local_monotonic",
    "local_predictive",
    "location",
    "mean",
    "neural_coverage",
    "none",
    "scaled_dot",
]
