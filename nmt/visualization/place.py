"""Where plots go: a folder of pictures, or one page. Imports nothing large: mistakes come at once."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

PAGES = (".html", ".htm")
PICTURES = (".png", ".svg", ".pdf", ".jpg", ".jpeg")


def is_page(path: Path) -> bool:
    """Whether this is a page; anything else is a folder."""
    return path.suffix.lower() in PAGES


def problems_of(path: Path) -> Iterator[str]:
    """Why plots cannot go there, a line each."""
    if is_page(path):
        if path.is_dir():
            yield f"{path} is a folder; name a file for the page"
        return
    if path.suffix.lower() in PICTURES:
        yield f"{path} is one picture; name a folder for a picture of each line, or a page that ends in .html"
    elif path.exists() and not path.is_dir():
        yield f"{path} is a file; name a folder for the pictures, or a page that ends in .html"
    if find_spec("matplotlib") is None:
        yield "pictures need the package matplotlib; pip install matplotlib, or name a page that ends in .html"
