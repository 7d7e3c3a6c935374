"""The attentions. A mechanism is a file in this folder and a line here."""

from nmt.model.attention import additive, none, windows
from nmt.model.attention.base import SCORES, WINDOWS, Attention, Encoded, Prepared, build_attention

__all__ = [
    "SCORES",
    "WINDOWS",
    "Attention",
    "Encoded",
    "Prepared",
    "additive",
    "build_attention",
    "none",
    "windows",
]
