"""The page that tells how to add a mechanism: it is followed in a copy of the project, and its code is tested."""

from __future__ import annotations

import importlib.util
import inspect
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from nmt.model import attention, wiring
from nmt.model.attention import COVERAGES, SCORES, WINDOWS
from nmt.model.wiring import WIRINGS
from tests.support.networks import REFERENCE
from tests.test_model import (
    WINDOW_OPTIONS,
    WIRED,
    test_a_sentence_does_not_feel_its_batch,
    test_every_parameter_gets_a_gradient,
    test_gradients_are_those_of_finite_differences,
    test_scan_is_step_repeated,
    test_what_stands_in_the_padding_changes_nothing,
)

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "adding_an_attention.md"
TRUTHS = [
    test_a_sentence_does_not_feel_its_batch,
    test_every_parameter_gets_a_gradient,
    test_gradients_are_those_of_finite_differences,
    test_scan_is_step_repeated,
    test_what_stands_in_the_padding_changes_nothing,
]
# pytest would run them once more here, by their names.
for truth in TRUTHS:
    del globals()[truth.__name__]


def block(kind: str) -> str:
    """The text of the page's only code block of this kind."""
    (text,) = re.findall(rf"```{kind}\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    return str(text)


FILE = "nmt/model/attention/distance.py"
was_not_followed = pytest.mark.skipif((ROOT / FILE).exists(), reason="the page was followed in this project")


@pytest.fixture(scope="module")
def followed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project in which somebody has done what the page says."""
    copy = tmp_path_factory.mktemp("copy")
    for part in ("nmt", "scripts", "tests", "configs", "docs/adding_an_attention.md", "pyproject.toml"):
        (copy / part).parent.mkdir(exist_ok=True)
        if (ROOT / part).is_dir():
            shutil.copytree(ROOT / part, copy / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / part, copy / part)
    assert f"`{FILE}`:" in PAGE.read_text(encoding="utf-8")
    (copy / FILE).write_text(block("python"), encoding="utf-8")
    before, added, after = (line[1:] + "\n" for line in block("diff").splitlines())
    imports = copy / "nmt/model/attention/__init__.py"
    text = imports.read_text(encoding="utf-8")
    assert text.count(before + after) == 1
    imports.write_text(text.replace(before + after, before + added + after), encoding="utf-8")
    run(copy, "scripts/make_reference.py")
    return copy


def run(folder: Path, *arguments: str) -> None:
    """Run Python in a copy of the project, whose modules come first."""
    ended = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=os.environ | {"PYTHONPATH": str(folder)}, text=True,
        capture_output=True,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout + ended.stderr


@was_not_followed
def test_lint_and_tests_pass_where_the_page_was_followed(followed: Path) -> None:
    """Those of the page's own mechanism, of the generated files, and one of all that every mechanism is tested for."""
    run(followed, "-m", "ruff", "check", "--no-cache", ".")
    run(followed, "-m", "ruff", "format", "--no-cache", "--check", ".")
    chosen = "equation or import_line or small or schema_and or (scan_is_step_repeated and distance)"
    files = [f"tests/test_{name}.py" for name in ("adding_an_attention", "configs", "model")]
    run(followed, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-m", "not slow", *files, "-k", chosen)


@was_not_followed
@pytest.mark.slow
def test_types_are_right_where_the_page_was_followed(followed: Path) -> None:
    run(followed, "-m", "mypy", "--cache-dir", str(followed / "mypy"), "nmt/model/attention")


@was_not_followed
def test_the_pages_yaml_is_a_config_where_the_page_was_followed(followed: Path) -> None:
    (followed / "own.yaml").write_text(
        "run: x\ndata: {source_language: a, target_language: b, train: {source: s, target: t}, "
        f"validation: {{source: s, target: t}}}}\n{block('yaml')}"
    )
    run(followed, "-m", "nmt.cli.train", "--config", "own.yaml", "--print-config")


@pytest.fixture
def distance(tmp_path: Path) -> Iterator[None]:
    """The page's mechanism, imported from a file while a test runs, unless the project has it."""
    if "distance" in SCORES:
        yield
        return
    file = tmp_path / "distance.py"
    file.write_text(block("python"), encoding="utf-8")
    spec = importlib.util.spec_from_file_location("distance", file)
    assert spec is not None
    assert spec.loader is not None
    sys.modules["distance"] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield
    del sys.modules["distance"], SCORES["distance"]


@pytest.mark.parametrize("truth", TRUTHS, ids=lambda truth: truth.__name__)
@pytest.mark.usefixtures("distance")
def test_the_page_adds_a_mechanism(truth: Any) -> None:
    for window in WINDOWS:
        for wired in WIRED:
            for heads in (1, 2):
                truth(
                    {
                        "score": "distance",
                        "window": window,
                        "window_options": WINDOW_OPTIONS.get(window),
                        "heads": heads,
                        **wired,
                    }
                )


@pytest.mark.usefixtures("distance")
def test_the_pages_score_is_its_equation() -> None:
    """q = W q here, m_1 = (1, 0), m_2 = (0, 2): -(|q|^2, ..) with q = (1, 1): -1 / sqrt 2, -2 / sqrt 2."""
    options = SCORES["distance"].options()
    score = SCORES.build(options, 2, 2, REFERENCE)
    with torch.no_grad():
        score.query.weight.copy_(torch.eye(2))
    view = attention.base.View(torch.tensor([[[1.0, 0.0], [0.0, 2.0]]]), False, 2, None, None)
    scores = score(torch.ones(1, 1, 2), view)
    torch.testing.assert_close(scores, torch.tensor([[[-1.0, -2.0]]]) / 2**0.5)


@pytest.mark.parametrize("package", [attention, wiring], ids=["attention", "wiring"])
def test_no_import_line_was_forgotten(package: Any) -> None:
    """A file that registers a mechanism is imported by its package."""
    folder = Path(package.__file__).parent
    imported = (folder / "__init__.py").read_text(encoding="utf-8")
    forgotten = [
        f"add `from {package.__name__} import {path.stem}` to {folder.name}/__init__.py"
        for path in sorted(folder.glob("*.py"))
        if re.search(r"^@[A-Z]+\.register\(", path.read_text(encoding="utf-8"), re.MULTILINE)
        and not re.search(rf"\b{path.stem}\b", imported)
    ]
    assert forgotten == []


def test_no_attention_is_named_outside_its_own_file_and_the_presets() -> None:
    """The trainer, the decoder, the search, the configuration reader and the commands know no mechanism."""
    places = [
        "nmt/training",
        "nmt/search",
        "nmt/config",
        "nmt/cli",
        "nmt/model/translator.py",
        "nmt/model/translator.py",
    ]
    files = [path for place in places for path in [ROOT / place, *(ROOT / place).rglob("*.py")] if path.suffix == ".py"]
    assert len(files) > 30
    # Names that stand for other things as well: no cache, a whole corpus, a schedule, a bridge.
    names = {*SCORES, *WINDOWS, *WIRINGS} - {"none", "global", "cosine", "mean"}
    quoted = re.compile(rf"""["'](?:{"|".join(sorted(names))})["']""")
    found = {
        f"{path.relative_to(ROOT)}: {match}"
        for path in files
        for match in quoted.findall(path.read_text(encoding="utf-8"))
    }
    defaults = {"general", "luong"}
    assert found == {
        *(f'nmt/config/schema/sections.py: "{name}"' for name in defaults),
        'nmt/config/schema/__init__.py: "additive"',
    }


@pytest.mark.parametrize(
    ("registry", "most"),
    [(SCORES, 80), (WINDOWS, 80), (COVERAGES, 80), (WIRINGS, 120)],
    ids=["score", "window", "coverage", "wiring"],
)
def test_a_mechanism_stays_small(registry: Any, most: int) -> None:
    """A class and its options; the base of its family is left out."""
    for name in registry:
        lines = [inspect.getsource(part).count("\n") for part in (registry[name].build, registry[name].options)]
        assert sum(lines) <= most, name
