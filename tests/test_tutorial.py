"""The tutorial: its code prints what it says, its commands run in their order, its notebook has the same chapters.

The notebook runs in a kernel of Jupyter where nbclient and ipykernel are installed.
"""

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


def shortened(commands: str) -> str:
    """Commands that train for a few updates. Their networks have learned nothing, and do not end their translations."""
    commands = re.sub(r"^(nmt-train .*)$", rf"\1 {FEWER_UPDATES}", commands, flags=re.MULTILINE)
    commands = commands.replace("tutorial.yaml", "tutorial.yaml --set validation.sentences=4")
    return re.sub(r"^(nmt-eval .*tutorial/(?!documents).*)$", r"\1 --beam-size 1", commands, flags=re.MULTILINE)


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.mark.usefixtures("environment")
def test_the_commands_run_in_their_order(checkout: Path) -> None:
    def run(*words: str) -> None:
        ended = subprocess.run(words, cwd=checkout, capture_output=True, text=True, timeout=300)
        assert ended.returncode == 0, f"{words}\n{ended.stdout}\n{ended.stderr}"

    for page in chapters():
        for language, content in blocks_of(page.read_text(encoding="utf-8")):
            if language == "sh":
                run("bash", "-e", "-o", "pipefail", "-c", shortened(content))
            elif language == "python" and "import nmt" in content:
                run(sys.executable, "-c", content)


SHOWN = """print(f"{translator=}")
translator.translate(["Today the boy is opening the window."] * 3, max_length=20, progress=True)[0]"""


@pytest.mark.usefixtures("environment")
def test_the_notebook_runs_in_jupyter(checkout: Path) -> None:
    """From its first cell to its last, and one more, whose result has a picture and which shows its progress."""
    nbclient, nbformat, _ = (
        pytest.importorskip(name, reason=f"{name} is not installed: pip install nbclient ipykernel")
        for name in ("nbclient", "nbformat", "ipykernel")
    )
    document = nbformat.reads(NOTEBOOK.read_text(encoding="utf-8"), as_version=4)
    for cell in document.cells:
        if cell.cell_type == "code" and cell.source.startswith("%%bash"):
            cell.source = shortened(cell.source)
    document.cells.append(nbformat.v4.new_code_cell(SHOWN))
    # The first cell goes up to the folder of the clone.
    here = {"metadata": {"path": str(checkout / "data" / "quickstart")}}
    nbclient.NotebookClient(document, timeout=300, kernel_name="python3", resources=here).execute()
    *_, result = (output for output in document.cells[-1].outputs if output.output_type == "execute_result")
    assert "<table" in result.data["text/html"]
    progress = "".join(each.text for each in document.cells[-1].outputs if each.get("name") == "stderr")
    assert re.search(r"[1-3]/3 ", progress), progress
