"""Attention mechanisms: scores, windows, normalizers, coverage and heads.

A score is a file in this folder and a line here.
"""

# A module registers its mechanism when it is imported.
from nmt.model.attention import (
    additive,
    coverage,
    dot,
    location,
    none,
    windows,
)
from nmt.model.attention.base import (
    COVERAGES,
    SCORES,
    WINDOWS,
    Attention,
    AttentionOutput,
    AttentionWeights,
    Encoded,
    Prepared,
    Summary,
)
from nmt.model.attention.soft import build_attention
