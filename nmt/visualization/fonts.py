"""Installed fonts that have the characters of a text."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from contextlib import suppress
from functools import cache

import numpy as np
import numpy.typing as npt
from matplotlib import font_manager
from matplotlib.ft2font import FT2Font

BASE = "DejaVu Sans"
"""Comes with matplotlib: Latin, Greek, Cyrillic, Hebrew, Arabic, Armenian, Georgian and many symbols."""

_UNDRAWN = ("Cc", "Cf", "Cs", "Zs")
_EAST_ASIAN = ("CJK", "HIRAGANA", "KATAKANA", "HANGUL", "BOPOMOFO", "FULLWIDTH", "IDEOGRAPHIC")


class Fonts:
    """A list of fonts that grows with the text.

    Attributes:
        families: names of fonts; a character is drawn by the first that has it.
    """

    def __init__(self) -> None:
        self.families = [BASE]
        self._seen: set[str] = set()
        self._scripts: set[str] = set()

    def add(self, texts: Iterable[str]) -> list[str]:
        """Look for fonts with the characters of these texts.

        Returns a line for each script that has come up for the first time with characters that no installed font has.
        """
        characters = set().union(*texts) - self._seen
        self._seen |= characters
        missing = {ord(character) for character in characters if unicodedata.category(character) not in _UNDRAWN}
        for path in map(font_manager.findfont, self.families):
            missing = _without(missing, _characters(path))
        while missing:
            name, left = _best(missing, _region_of(characters))
            if left == missing:
                break
            self.families.append(name)
            missing = left
        return self._report(missing)

    def _report(self, missing: set[int]) -> list[str]:
        lines = []
        for code in sorted(missing):
            script, package = _script_of(chr(code))
            if script not in self._scripts:
                self._scripts.add(script)
                lines.append(
                    f"no installed font has {script} characters such as {chr(code)} (U+{code:04X}): in PNG files they "
                    f"are boxes, in SVG files the browser's own font draws them; install one that does (Debian, "
                    f"Ubuntu: {package})"
                )
        return lines


def _best(missing: set[int], region: str) -> tuple[str, set[int]]:
    """The family that leaves the fewest of these characters, and those that it leaves."""
    left = {name: _without(missing, has) for name, has in _installed()}
    # Of equals one without serifs, like the base, and with the region's own shapes.
    name = min(left, key=lambda name: (len(left[name]), "Sans" not in name, region not in name.split()))
    return name, left[name]


def _without(missing: set[int], has: npt.NDArray[np.uint32]) -> set[int]:
    wanted = np.fromiter(missing, np.uint32, len(missing))
    return set(wanted[~np.isin(wanted, has)].tolist())


def _region_of(characters: Iterable[str]) -> str:
    """Whose shapes Chinese characters have, as fonts call it: Japan's and Korea's beside their own letters."""
    scripts = {unicodedata.name(character, "").split(" ")[0] for character in characters}
    return "JP" if scripts & {"HIRAGANA", "KATAKANA"} else "KR" if "HANGUL" in scripts else "SC"


def _script_of(character: str) -> tuple[str, str]:
    """The script's name and the Debian package with a font for it."""
    name = unicodedata.name(character, "unknown")
    script = name.split()[0].split("-")[0]
    if unicodedata.category(character)[0] not in "LM":
        return "symbol", "fonts-symbola"
    return script.capitalize() if script != "CJK" else script, (
        "fonts-noto-cjk" if script in _EAST_ASIAN else "fonts-noto-core"
    )


@cache
def _installed() -> list[tuple[str, npt.NDArray[np.uint32]]]:
    """Families and the characters of their upright, regular faces. Opens every such file: only when one is needed."""
    files: dict[str, str] = {}
    # matplotlib lists fonts once, and does not see what has been installed since.
    for path in set(font_manager.findSystemFonts()) - {entry.fname for entry in font_manager.fontManager.ttflist}:
        with suppress(RuntimeError, OSError):
            font_manager.fontManager.addfont(path)
    for entry in font_manager.fontManager.ttflist:
        regular = entry.style == "normal" and entry.weight in ("normal", "regular", 400)
        # The last resort draws boxes for all characters there are.
        if regular and "lastresort" not in entry.name.replace(" ", "").lower():
            files.setdefault(entry.name, entry.fname)
    return [(name, _characters(path)) for name, path in sorted(files.items())]


@cache
def _characters(path: str) -> npt.NDArray[np.uint32]:
    """Code points that the font has; none where the file cannot be read."""
    try:
        charmap = FT2Font(path).get_charmap()
    except (RuntimeError, OSError):
        charmap = {}
    return np.fromiter(charmap, np.uint32, len(charmap))
