"""Ranges that many keys share. Every number has an upper bound, so that a typing error is not taken for a size."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

Positive = Annotated[int, Field(ge=1, le=1_000_000_000)]
Count = Annotated[int, Field(ge=0, le=1_000_000_000)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Size = Annotated[int, Field(ge=1, le=65_536)]
"""Width of a layer."""
Layers = Annotated[int, Field(ge=1, le=100)]
Heads = Annotated[int, Field(ge=1, le=1_024)]
Sentences = Annotated[int, Field(ge=1, le=100)]
"""Sentences of context."""
Positions = Annotated[int, Field(ge=1, le=100_000)]
"""Source positions."""
Samples = Annotated[int, Field(ge=0, le=100_000)]
"""Of the bootstrap."""
Beam = Annotated[int, Field(ge=1, le=1_000)]
Tokens = Annotated[int, Field(ge=1, le=10_000_000)]
"""Tokens in a batch."""
ColumnNumber = Annotated[int, Field(ge=1, le=10_000)]
Workers = Annotated[int, Field(ge=0, le=1_024)]
VocabularySize = Annotated[int, Field(ge=16, le=1_000_000)]
Weight = Annotated[float, Field(gt=0.0, le=1_000.0)]
"""How often a corpus is read in an epoch."""
Penalty = Annotated[float, Field(ge=0.0, le=100.0)]
Ratio = Annotated[float, Field(ge=0.0, le=1_000.0)]
PathName = Annotated[str, Field(min_length=1, max_length=1_000)]
"""Name of a file or folder. An empty one would mean the current folder; folders in each other are made one by one."""
Probability = Annotated[float, Field(ge=0.0, lt=1.0)]
