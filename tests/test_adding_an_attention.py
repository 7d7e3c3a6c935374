"""The page that tells how to add a mechanism: its code is run, and held to the truths of every mechanism."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from nmt.model import attention, wiring
from nmt.model.attention import SCORES, WINDOWS
from tests.networks import model_options, network, sentences
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
def distance() -> Iterator[dict[str, Any]]:
    """The page's mechanism, registered while a test runs."""
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    names: dict[str, Any] = {"__name__": "distance"}
    exec(compile(code, str(PAGE), "exec"), names)
    yield names
    del SCORES._entries["distance"]


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
    from nmt.model.wiring import WIRINGS

    names = {*SCORES, *WINDOWS, *WIRINGS} - {"none", "global"}
    # Words that mean something else as well: an additive penalty, a conditional expression, the general case.
    quoted = re.compile(rf"""["'](?:{"|".join(sorted(names))})["']""")
    found = {
        f"{path.relative_to(ROOT)}: {match}"
        for path in files
        for match in quoted.findall(path.read_text(encoding="utf-8"))
    }
    assert found == {'nmt/config/schema/network.py: "additive"', 'nmt/config/schema/network.py: "bahdanau"'}


@pytest.mark.parametrize("package", [attention, wiring], ids=["attention", "wiring"])
def test_a_mechanism_stays_small(package: Any) -> None:
    """About eighty lines; what is common stands in the base."""
    folder = Path(package.__file__).parent
    for path in folder.glob("*.py"):
        if path.stem not in ("base", "soft", "local", "gnmt", "luong"):
            assert len(path.read_text(encoding="utf-8").splitlines()) <= 80, path


def test_a_network_with_the_pages_mechanism_can_be_saved_and_named(distance: dict[str, Any]) -> None:
    translator = network(model_options(score="distance"))
    source_BS, lengths_B = sentences(3, 2)
    assert translator(source_BS, lengths_B, sentences(2, 2, size=11)[0]).isfinite().all()
    assert any("score.query" in name for name, _ in translator.named_parameters())
