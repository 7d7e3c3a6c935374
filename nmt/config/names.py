"""What a wrong name was probably meant to be."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(name: str, choices: Iterable[str]) -> str | None:
    """The choice most like `name`, in whatever case, or None if none is."""
    by_folded = {choice.casefold(): choice for choice in choices}
    found = difflib.get_close_matches(name.casefold(), by_folded, n=1, cutoff=0.6)
    return by_folded[found[0]] if found else None


def advice(name: str, choices: Iterable[str]) -> str:
    """What to write instead of `name`: the nearest choice, and all there are."""
    choices = list(choices)
    near = nearest(name, choices)
    listed = f"choose from {', '.join(choices)}" if choices else "there is none to choose from"
    return f"did you mean {near!r}? ({listed})" if near else listed
