"""One page for a whole file, to step through in a browser. It holds all that it needs: no network is asked.

Weights are stored in steps of 1/255: a sentence of 30 pieces takes about a kilobyte a head.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from nmt.visualization.look import Look
from nmt.visualization.shell import Kind, embedded, shell

STEPS = 255
"""Of a stored weight: it differs by no more than 1/510 from what it was."""

KIND = Kind(
    noun="sentence",
    part="piece",
    keys="<kbd>Tab</kbd> enters the sentence, where <kbd>←</kbd> <kbd>→</kbd> go from piece to piece",
    styles=("page_view.css",),
    scripts=("page_data.js", "page_view.js"),
)


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
        head, self._tail = shell(title, KIND)
        shown = embedded([asdict(system) for system in systems])
        write(f'{head}{{"systems":{shown},"sentences":[')
        self._separator = "\n"

    def add(self, line: int, source: str, looks: Sequence[Look | None]) -> None:
        """Show a line of the input, numbered from 1, and for every system how it translated it, None for not at all."""
        assert len(looks) == self._systems, "a look a system"
        sentence = {"line": line, "source": source, "looks": [_content(look) if look else None for look in looks]}
        self._write(self._separator + embedded(sentence))
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
