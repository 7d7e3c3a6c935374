"""What all pages share: the frame around their data, which holds all that it needs and asks no network.

The text on a page is data and can do nothing, and the page's policy lets its own script run alone.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
from dataclasses import dataclass
from importlib.resources import files


@dataclass(frozen=True)
class Kind:
    """What is on a page: its own words, styles and scripts beside those of all pages."""

    noun: str
    """What one steps through."""
    part: str
    """What has weights that can be shown."""
    keys: str
    """HTML that says what else keys do."""
    styles: tuple[str, ...]
    scripts: tuple[str, ...]
    """Files; they define `View`, which draws what one steps to, `matching`, which searches, and the texts that stand
    where there is nothing."""


def shell(title: str, kind: Kind) -> tuple[str, str]:
    """What comes before and after the data."""
    page = _read("page.html")
    style = "\n".join(map(_read, ("page.css", *kind.styles)))
    script = "\n".join(map(_read, ("page_elements.js", *kind.scripts, "page.js")))
    policy = f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}"
    head, _, tail = page.partition("{{data}}")
    # The title last: a name is whatever its owner likes.
    texts = {
        "policy": policy,
        "style": style,
        "script": script,
        "noun": kind.noun,
        "part": kind.part,
        "keys": kind.keys,
    }
    for name, text in (*texts.items(), ("title", html.escape(title))):
        head, tail = (part.replace("{{" + name + "}}", text) for part in (head, tail))
    return head, tail


def embedded(content: object) -> str:
    """JSON inside of HTML: without `<` nothing in it can end the script element, or begin a comment."""
    return json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def _read(name: str) -> str:
    return files("nmt.visualization").joinpath(name).read_text("utf-8")


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
