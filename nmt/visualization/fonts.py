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

DEFAULT_FONT = "DejaVu Sans"
"""Comes with matplotlib: Latin, Greek, Cyrillic, Hebrew, Arabic, Armenian, Georgian and many symbols."""

_Codes = npt.NDArray[np.uint32]
"""Code points in ascending order."""
_INVISIBLE = ("Cc", "Cf", "Cs", "Zs")
_EAST_ASIAN = ("CJK", "HIRAGANA", "KATAKANA", "HANGUL", "BOPOMOFO", "FULLWIDTH", "IDEOGRAPHIC")


class Fonts:
    """A list of fonts that grows with the text.

    Attributes:
        families: names of fonts; a character is drawn by the first that has it.
    """

    def __init__(self) -> None:
        self.families = [DEFAULT_FONT]
        self._seen: set[str] = set()
        self._reported_scripts: set[str] = set()

    def add(self, texts: Iterable[str]) -> list[str]:
        """Adds installed fonts for the characters of these texts.

        Returns a line for each script, once, with characters that no installed font has.
        """
        characters = set().union(*texts) - self._seen
        self._seen |= characters
        visible = [ord(character) for character in characters if unicodedata.category(character) not in _INVISIBLE]
        missing = np.asarray(visible, np.uint32)
        for path in map(font_manager.findfont, self.families):
            missing = np.setdiff1d(missing, _characters(path))
        while len(missing):
            name, remaining = _best_family(missing, _region_of(characters))
            if len(remaining) == len(missing):
                break
            self.families.append(name)
            missing = remaining
        lines = []
        for code in missing.tolist():
            script, package = _script_of(chr(code))
            if script not in self._reported_scripts:
                self._reported_scripts.add(script)
                lines.append(
                    f"no installed font has {script} characters such as {chr(code)} (U+{code:04X}): in PNG files they "
                    f"are boxes, in SVG files the browser's own font draws them; install one that does (Debian, "
                    f"Ubuntu: {package})"
                )
        return lines


def _best_family(missing: _Codes, region: str) -> tuple[str, _Codes]:
    """Returns the family that leaves the fewest of these characters missing, and those."""
    remaining = {name: np.setdiff1d(missing, characters) for name, characters in _installed_fonts()}
    # Ties: a font without serifs, like the default, and with the region's own shapes.
    name = min(remaining, key=lambda name: (len(remaining[name]), "Sans" not in name, region not in name.split()))
    return name, remaining[name]


def _region_of(characters: Iterable[str]) -> str:
    """Returns the suffix of fonts with the region's shapes of Chinese characters, by the letters beside them."""
    scripts = {unicodedata.name(character, "").split(" ")[0] for character in characters}
    return "JP" if scripts & {"HIRAGANA", "KATAKANA"} else "KR" if "HANGUL" in scripts else "SC"


def _script_of(character: str) -> tuple[str, str]:
    """Returns the name of the script, and the Debian package with a font for it."""
    name = unicodedata.name(character, "unknown")
    script = name.split()[0].split("-")[0]
    if unicodedata.category(character)[0] not in "LM":
        return "symbol", "fonts-symbola"
    package = "fonts-noto-cjk" if script in _EAST_ASIAN else "fonts-noto-core"
    return script.capitalize() if script != "CJK" else script, package


@cache
def _installed_fonts() -> list[tuple[str, _Codes]]:
    """Returns font families with the characters of their regular faces. Opens every font file, so called on need."""
    paths: dict[str, str] = {}
    # matplotlib lists fonts once, and does not see what has been installed since.
    for path in set(font_manager.findSystemFonts()) - {entry.fname for entry in font_manager.fontManager.ttflist}:
        with suppress(RuntimeError, OSError):
            font_manager.fontManager.addfont(path)
    for entry in font_manager.fontManager.ttflist:
        regular = entry.style == "normal" and entry.weight in ("normal", "regular", 400)
        # The font "Last Resort" draws boxes for all characters.
        if regular and "lastresort" not in entry.name.replace(" ", "").lower():
            paths.setdefault(entry.name, entry.fname)
    return [(name, _characters(path)) for name, path in sorted(paths.items())]


@cache
def _characters(path: str) -> _Codes:
    """Returns the code points of a font, none if the file cannot be read."""
    try:
        charmap = FT2Font(path).get_charmap()
    except (RuntimeError, OSError):
        charmap = {}
    return np.fromiter(charmap, np.uint32, len(charmap))
