"""What a translator is told of the sentences before. A kind is a file in this folder and a line here."""

from nmt.model.context import hierarchical, none, summary
from nmt.model.context.base import CONTEXTS, Context, ContextOptions, ContextWeights, Sentences, Translated

__all__ = [
    "CONTEXTS",
    "Context",
    "ContextOptions",
    "ContextWeights",
    "Sentences",
    "Translated",
    "hierarchical",
    "none",
    "summary",
]
