"""The tutorial: its code prints what it says, its commands run in their order, its notebook has the same chapters."""

from __future__ import annotations

import contextlib
import io
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.tutorial_notebook import NOTEBOOK, blocks_of, chapters, notebook

ROOT = Path(__file__).parent.parent
LINES = {"train": 400, "valid": 120, "test": 120}
"""Lines of the corpus that the commands see here."""
FEWER_UPDATES = "--set training.max_steps=4 --set training.max_epochs=null"


def test_the_notebook_has_the_chapters() -> None:
    assert NOTEBOOK.read_text(encoding="utf-8") == notebook(), "run python -m scripts.tutorial_notebook"


@pytest.mark.parametrize("page", chapters(), ids=lambda page: page.stem)
def test_code_without_a_model_prints_what_the_page_says(page: Path) -> None:
    blocks = [block for block in blocks_of(page.read_text(encoding="utf-8")) if block[1].strip()]
    names: dict[str, object] = {}
    for number, (language, content) in enumerate(blocks):
        if language != "python" or "import nmt" in content:
            continue
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(content, f"{page.name}, block {number}", "exec"), names)
        following = blocks[number + 1]
        expected = following[1] if following[0] == "text" else ""
        assert printed.getvalue() == expected


def test_pictures_exist() -> None:
    for page in chapters():
        for name in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / name).is_file(), f"{page.name}: {name}"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder like the clone, with the beginning of the corpus."""
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    corpus = tmp_path / "data" / "quickstart"
    corpus.mkdir(parents=True)
    for file in (ROOT / "data" / "quickstart").glob("*.[ed][ne]"):
        lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
        (corpus / file.name).write_text("".join(lines[: LINES[file.stem]]), encoding="utf-8")
    return tmp_path


def test_the_commands_run_in_their_order(checkout: Path) -> None:
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = str(ROOT)

    def run(*words: str) -> None:
        ended = subprocess.run(words, cwd=checkout, env=environment, capture_output=True, text=True, timeout=300)
        assert ended.returncode == 0, f"{words}\n{ended.stdout}\n{ended.stderr}"

    for page in chapters():
        for language, content in blocks_of(page.read_text(encoding="utf-8")):
            if language == "sh":
                content = re.sub(r"^(nmt-train .*)$", rf"\1 {FEWER_UPDATES}", content, flags=re.MULTILINE)
                # A network that has learned nothing does not end its translations.
                content = content.replace("tutorial.yaml", "tutorial.yaml --set validation.sentences=4")
                content = re.sub(
                    r"^(nmt-eval .*tutorial/(?!documents).*)$", r"\1 --beam-size 1", content, flags=re.MULTILINE
                )
                run("bash", "-e", "-o", "pipefail", "-c", content)
            elif language == "python" and "import nmt" in content:
                run(sys.executable, "-c", content)
