"""The page that tells how to add a mechanism: its code is run, and held to the truths of every mechanism."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from nmt.model import attention, wiring
from nmt.model.attention import SCORES, WINDOWS
from nmt.model.wiring import WIRINGS
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


@pytest.fixture
def distance(tmp_path: Path) -> Iterator[None]:
    """The page's mechanism, imported from a file while a test runs."""
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    file = tmp_path / "distance.py"
    file.write_text(code, encoding="utf-8")
    spec = importlib.util.spec_from_file_location("distance", file)
    assert spec is not None
    assert spec.loader is not None
    sys.modules["distance"] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield
    del sys.modules["distance"], SCORES._entries["distance"]


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
    score = SCORES.build(options, 2, 2)
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
    places = ["nmt/training", "nmt/search", "nmt/config", "nmt/cli", "nmt/model/decoder.py", "nmt/model/translator.py"]
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
    defaults = {"additive", "bahdanau"}
    assert found == {
        *(f'nmt/config/schema/network.py: "{name}"' for name in defaults),
        'nmt/config/schema/classification.py: "additive"',
    }


@pytest.mark.parametrize("package", [attention, wiring], ids=["attention", "wiring"])
def test_a_mechanism_stays_small(package: Any) -> None:
    """About eighty lines; what is common stands in the base."""
    folder = Path(package.__file__).parent
    for path in folder.glob("*.py"):
        if path.stem not in ("base", "soft", "local", "gnmt", "luong", "conditional"):
            assert len(path.read_text(encoding="utf-8").splitlines()) <= 80, path
