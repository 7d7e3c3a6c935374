"""Document context: attention over the previous sentences.

A kind of context is a file in this folder and a line here.
"""

# A module registers its mechanism when it is imported.
from nmt.model.context import hierarchical, summary
from nmt.model.context.base import CONTEXTS, Context, ContextOptions, ContextWeights, PreparedContext, Sentences
