"""One page for a whole file, to step through in a browser. It holds all that it needs: no network is asked.

Weights are stored in steps of 1/255: a sentence of 30 pieces takes about a kilobyte a head. The text on the page is
data and can do nothing, and the page's policy lets its own script run alone.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.resources import files
from typing import Any

import numpy as np

from nmt.plots.look import Look

STEPS = 255
"""Of a stored weight: it differs by no more than 1/510 from what it was."""


@dataclass(frozen=True)
class Shown:
    """A system whose looks are on the page."""

    name: str
    source_language: str
    """As BCP 47 has it, where the config does: browsers choose fonts for Chinese characters by it."""
    target_language: str


class Page:
    """Writes a page sentence by sentence, so that none is held in memory."""

    def __init__(self, write: Callable[[str], object], systems: Sequence[Shown]) -> None:
        self._write = write
        self._systems = len(systems)
        title = "Attention of " + " and ".join(system.name for system in systems)
        head, self._tail = _page(title)
        shown = _embedded([asdict(system) for system in systems])
        write(f'{head}{{"systems":{shown},"sentences":[')
        self._separator = "\n"

    def add(self, line: int, source: str, looks: Sequence[Look | None]) -> None:
        """Show a line of the input, numbered from 1, and for every system how it translated it, None for not at all."""
        assert len(looks) == self._systems, "a look a system"
        sentence = {"line": line, "source": source, "looks": [_content(look) if look else None for look in looks]}
        self._write(self._separator + _embedded(sentence))
        self._separator = ",\n"

    def end(self) -> None:
        """What closes the page."""
        self._write(f"\n]}}{self._tail}")


def _content(look: Look) -> dict[str, Any]:
    steps = np.rint(np.clip(look.weights_NTS, 0.0, 1.0) * STEPS).astype(np.uint8)
    centers = None
    if look.centers_NT is not None:
        # The shortest spelling of each: what is in the window depends on the last digit.
        centers = [[float(str(center)) for center in head] for head in look.centers_NT]
    return {
        "target": look.target,
        "source_pieces": look.source_pieces,
        "target_pieces": look.target_pieces,
        "log_probability": round(look.log_probability, 4),
        "heads": len(steps),
        "weights": base64.b64encode(steps.tobytes()).decode(),
        "centers": centers,
        "half_width": look.half_width,
    }


def _embedded(content: object) -> str:
    """JSON inside of HTML: without `<` nothing in it can end the script element, or begin a comment."""
    return json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def _page(title: str) -> tuple[str, str]:
    """What comes before and after the data."""
    folder = files("nmt.plots")
    page, style, *scripts = (
        folder.joinpath(name).read_text("utf-8")
        for name in ("page.html", "page.css", "page_data.js", "page_view.js", "page.js")
    )
    script = "\n".join(scripts)
    policy = f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}"
    head, _, tail = page.partition("{{data}}")
    # The title last: a name is whatever its owner likes.
    for name, text in (("policy", policy), ("style", style), ("script", script), ("title", html.escape(title))):
        head, tail = (part.replace("{{" + name + "}}", text) for part in (head, tail))
    return head, tail


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
