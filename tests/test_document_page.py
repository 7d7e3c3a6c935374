"""The page of documents: it shows the weights, and no text can break it."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from nmt.cli import classify
from nmt.visualization.pages import ClassifiedDocument, DocumentPage, WeightedSentence
from tests.support.commands import Call
from tests.test_classification import run, trained  # noqa: F401 - fixtures
from tests.test_plots import Reader, assert_own_code

DOCUMENT = {
    "text": "good\tnot so bad",
    "label": "positive",
    "probabilities": {"negative": 0.25, "positive": 0.75},
    "sentences": (
        WeightedSentence(0.36, ("good",), (1.0,)),
        WeightedSentence(0.64, ("not", "so", "bad"), (0.5, 0.0, 0.5)),
        WeightedSentence(0.0, (), ()),
    ),
}


def page_of(*documents: dict[str, Any], name: str = "runs/a") -> str:
    written: list[str] = []
    page = DocumentPage(written.append, name, "en")
    for line, document in enumerate(documents, start=1):
        true_label = document.get("true_label")
        given = {name: value for name, value in document.items() if name != "true_label"}
        page.add(ClassifiedDocument(line, **given), true_label)
    page.end()
    return "".join(written)


def test_a_page_holds_both_levels_of_weights() -> None:
    data = Reader(page_of(DOCUMENT, DOCUMENT)).data
    assert [document["line"] for document in data["sentences"]] == [1, 2]
    assert data["sentences"][0]["source"] == "good not so bad"
    (attention,) = data["sentences"][0]["attention"]
    assert attention["label"] == "positive"
    assert attention["probabilities"] == [["positive", 0.75], ["negative", 0.25]]
    assert attention["sentences"][1] == {"weight": 0.64, "words": ["not", "so", "bad"], "weights": [0.5, 0.0, 0.5]}
    assert Reader(page_of()).data["sentences"] == []


def test_no_text_can_break_a_page() -> None:
    evil = ("</script>", "<!--", "<script>alert(1)", "\u2028", '"', "\\", "{{data}}", "{{noun}}", "&lt;")
    sentences = (WeightedSentence(1.0, evil, (0.0,) * len(evil)),)
    attention = {"text": " ".join(evil), "label": evil[0], "probabilities": {evil[1]: 1.0}, "sentences": sentences}
    reader = Reader(page_of(attention, name="<b>{{script}}</title>"))
    assert reader.open == []
    assert [tag for tag, _ in reader.elements].count("script") == 2
    assert tuple(reader.data["sentences"][0]["attention"][0]["sentences"][0]["words"]) == evil
    assert reader.texts["title"] == "Attention of <b>{{script}}</title>"


def test_a_page_asks_for_nothing_and_runs_its_own_script_alone() -> None:
    reader = Reader(page_of(DOCUMENT))
    attributes = {name for _, found in reader.elements for name in found}
    assert not attributes & {"src", "href", "srcset", "action", "style", "onclick", "onload"}
    assert_own_code(reader)
    policy = next(found["content"] for _, found in reader.elements if "http-equiv" in found)
    hashes = {
        kind: "'sha256-" + base64.b64encode(hashlib.sha256(reader.texts[kind].encode()).digest()).decode() + "'"
        for kind in ("style", "script")
    }
    assert policy == f"default-src 'none'; style-src {hashes['style']}; script-src {hashes['script']}"
    assert "prefers-color-scheme: dark" in reader.texts["style"]


@pytest.mark.skipif(shutil.which("node") is None, reason="no node to run the page's script")
def test_inks_are_those_of_the_papers_figure() -> None:
    """sqrt(p_s) p_w, full for the largest: 0.6 for `good`, 0.8 * 0.5 = 0.4 for `not` and `bad`."""
    reader = Reader(page_of(DOCUMENT))
    program = f"""
        {reader.texts["script"]}
        const attention = {reader.texts["data"]}.sentences[0].attention[0];
        console.log(JSON.stringify({{
            inks: inksOf(attention.sentences),
            largest: largestWords(attention.sentences[1]),
            found: [" NOT so", "positive", "x"].map((query) => matching({reader.texts["data"]}, query)),
        }}));"""
    ended = subprocess.run(["node", "-"], input=program, capture_output=True, text=True, timeout=60, check=True)
    found = json.loads(ended.stdout)
    assert found["inks"]["sentences"] == [pytest.approx(0.36 / 0.64), 1, 0]
    assert found["inks"]["words"] == [[pytest.approx(1)], [pytest.approx(2 / 3), 0, pytest.approx(2 / 3)], []]
    assert [each["word"] for each in found["largest"]] == ["not", "bad"]
    assert found["found"] == [[0], [0], []]


def test_a_page_of_standard_input(run: Path, call: Call, tmp_path: Path) -> None:  # noqa: F811
    page = tmp_path / "page.html"
    text = "now and then\tit was the storm .\n\nit was the dog .\t\n"
    ended = call(classify.main, "--model", run, "--plot", page, stdin=text.encode())
    assert ended.code == 0, ended.errors
    assert [line.split("\t")[0] for line in ended.output.splitlines()] == ["weather", "", "animals"]
    documents = Reader(page.read_text(encoding="utf-8")).data["sentences"]
    assert [document["line"] for document in documents] == [1, 3]
    attention = documents[0]["attention"][0]
    assert attention["label"] == "weather"
    assert [sentence["words"] for sentence in attention["sentences"]] == [
        ["now", "and", "then"],
        ["it", "was", "the", "storm", "."],
    ]
    assert sum(sentence["weight"] for sentence in attention["sentences"]) == pytest.approx(1.0, abs=1e-3)
    for sentence in attention["sentences"]:
        assert sum(sentence["weights"]) == pytest.approx(1.0, abs=1e-3)


def test_true_labels_of_a_file(run: Path, call: Call, tmp_path: Path) -> None:  # noqa: F811
    page, labels = tmp_path / "page.html", tmp_path / "labels.txt"
    text = "now and then\tit was the storm .\n\nit was the dog .\t\n"
    labels.write_text("weather\n\nweather\n")
    ended = call(classify.main, "--model", run, "--plot", page, "--labels", labels, stdin=text.encode())
    assert ended.code == 0, ended.errors
    documents = Reader(page.read_text(encoding="utf-8")).data["sentences"]
    found = [(each["attention"][0]["label"], each["attention"][0]["true_label"]) for each in documents]
    assert found == [("weather", "weather"), ("animals", "weather")]
    labels.write_text("weather\n\n")
    ended = call(classify.main, "--model", run, "--plot", page, "--labels", labels, stdin=text.encode())
    assert ended.code == 2
    assert "labels.txt: has 2 lines, and there are more documents; give a label for each" in ended.errors
    assert call(classify.main, "--model", run, "--labels", labels).code == 2


def test_a_mistake_in_the_text_leaves_the_old_page_as_it_was(run: Path, call: Call, tmp_path: Path) -> None:  # noqa: F811
    page = tmp_path / "page.html"
    page.write_text("old")
    ended = call(classify.main, "--model", run, "--plot", page, stdin=b"the\tcat\n\xff\n")
    assert ended.code == 2
    assert page.read_text() == "old"
    assert list(tmp_path.iterdir()) == [page]
