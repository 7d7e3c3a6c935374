"""Writes docs/tutorial/tutorial.ipynb from the chapters of the tutorial.

    python -m scripts.tutorial_notebook

Text becomes cells of text, Python cells of code, and commands cells that a shell runs. Expected output (`text` blocks)
is left out: the notebook makes its own. tests/test_tutorial.py compares the notebook with the chapters.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent.parent / "docs" / "tutorial"
NOTEBOOK = FOLDER / "tutorial.ipynb"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```\n", re.MULTILINE | re.DOTALL)
SETUP = """# The paths below are those of the clone's folder.
import os
from pathlib import Path

while not Path("data/quickstart").is_dir() and Path.cwd() != Path.cwd().parent:
    os.chdir("..")
print(Path.cwd())
"""


def chapters() -> list[Path]:
    """Returns the pages in their order, the introduction first."""
    return [FOLDER / "README.md", *sorted(FOLDER.glob("[0-9]_*.md"))]


def blocks_of(text: str) -> Iterator[tuple[str, str]]:
    """Yields the language and the content of each block of a page; text between blocks has the language `markdown`."""
    end = 0
    for match in BLOCK.finditer(text):
        yield "markdown", text[end : match.start()]
        yield match[1], match[2]
        end = match.end()
    yield "markdown", text[end:]


def cells() -> Iterator[dict[str, Any]]:
    """Yields the cells of the notebook."""
    yield _cell("python", SETUP)
    for page in chapters():
        for language, content in blocks_of(page.read_text(encoding="utf-8")):
            content = content.strip("\n")
            if content and language != "text":
                yield _cell(language, f"%%bash\n{content}" if language == "sh" else content)


def _cell(language: str, content: str) -> dict[str, Any]:
    lines = content.splitlines(keepends=True)
    if language == "markdown":
        return {"cell_type": "markdown", "metadata": {}, "source": lines}
    return {"cell_type": "code", "execution_count": None, "metadata": {}, "outputs": [], "source": lines}


def notebook() -> str:
    """Returns the notebook as JSON (nbformat 4)."""
    kernel = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    numbered = [{"id": f"cell-{number}", **cell} for number, cell in enumerate(cells())]
    content = {"cells": numbered, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(content, ensure_ascii=False, indent=1) + "\n"


if __name__ == "__main__":
    NOTEBOOK.write_text(notebook(), encoding="utf-8")
