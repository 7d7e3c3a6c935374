"""The page about Python: its snippets run, in order, on small models, and it names every function of the API."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

import nmt
from nmt.data.tokenizer import TokenizerPair
from tests.support import labelled_documents, training_runs
from tests.support.models import save_small

PAGE = (Path(__file__).parent.parent / "docs" / "python.md").read_text(encoding="utf-8")
SNIPPETS = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


@pytest.mark.usefixtures("threads_and_generators_as_they_were")
def test_the_snippets_run(
    tmp_path: Path,
    tokenizers: TokenizerPair,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    save_small(tmp_path / "runs" / "quickstart", tokenizers, updates=2, overrides=["search.max_length_ratio=0.5"])
    labelled_documents.write_all(tmp_path, 20)
    (tmp_path / "labels.yaml").write_text(labelled_documents.CONFIG.format(folder=tmp_path), encoding="utf-8")
    nmt.train("labels.yaml", overrides=["run=runs/bbc-news", "training.max_epochs=1"])
    training_runs.write_corpus(tmp_path, 40)
    (tmp_path / "my.yaml").write_text(training_runs.CONFIG.format(folder=tmp_path), encoding="utf-8")
    namespace: dict[str, object] = {}
    capsys.readouterr()
    for number, snippet in enumerate(SNIPPETS, start=1):
        exec(compile(snippet, f"docs/python.md, snippet {number}", "exec"), namespace)
    printed = capsys.readouterr()
    assert "beam_sise: unknown argument; did you mean 'beam_size'?" in printed.out
    assert "BLEU" in printed.out
    assert printed.err == ""


def test_the_page_names_every_function() -> None:
    functions = [f"nmt.{name}(" for name in nmt.__all__ if inspect.isfunction(getattr(nmt, name))]
    methods = [
        f"{variable}.{name}("
        for variable, kind in (("translator", nmt.TextTranslator), ("classifier", nmt.TextClassifier))
        for name, value in vars(kind).items()
        if inspect.isfunction(value) and not name.startswith("_") and name not in ("alone", "search", "system")
    ]
    assert [name for name in (*functions, *methods) if name not in PAGE] == []
