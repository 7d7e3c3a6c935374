"""The playground of a real nmt-serve: its answers are the records of the model, and the page works with them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from nmt.config.schema import SearchConfig
from nmt.data.tokenizer import TokenizerPair
from nmt.tasks.translation.loading import System
from nmt.tasks.translation.recording import record_pair, record_search
from scripts.server_load.process import Server
from scripts.server_load.process import serving as serving_process
from tests.support.models import REFERENCES, SOURCES, save_small
from tests.test_browser import browser  # noqa: F401 - a fixture
from tests.test_playground import translate

if TYPE_CHECKING:
    from playwright.sync_api import Browser


@pytest.fixture(scope="module")
def server(checkpoint: Path, tokenizers: TokenizerPair, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of a model with attention, `small`, and of one without, `plain`."""
    plain = save_small(tmp_path_factory.mktemp("models") / "plain", tokenizers, attention="sutskever2014", updates=5)
    with serving_process(checkpoint, plain) as running:
        yield running


def test_answers_are_the_records_of_the_model(server: Server, system: System) -> None:
    search = SearchConfig(beam_size=3)
    request = {"model": "small", "source": SOURCES[3], "beam_size": 3}
    expected = record_search(system, SOURCES[3], search)
    assert expected is not None
    answer = server.post("/api/steps", request)
    assert answer.status == 200
    assert answer.json["text"] == expected.text
    assert [node["piece"] for node in answer.json["nodes"]] == [node.piece for node in expected.nodes]
    given = record_pair(system, SOURCES[0], REFERENCES[0], search)
    assert given is not None
    pair = server.post("/api/pair", {"model": "small", "source": SOURCES[0], "target": REFERENCES[0]})
    assert pair.json == json.loads(given.model_dump_json())


@pytest.mark.parametrize(
    ("changes", "status", "message"),
    [
        ({"model": "x"}, 400, "x"),
        ({"source": "ein " * 400}, 413, "100 pieces or fewer"),
        ({"source": " "}, 422, "the text has no piece"),
        ({"source": "\udc80"}, 422, ""),
        ({"prefix": ["no such piece"]}, 422, "no such piece"),
        ({"weights": {"0": [1.0]}}, 422, "the weights at position 0"),
        ({"beam_size": 1000}, 422, "beam_size"),
        ({"unknown": 1}, 422, "unknown"),
    ],
)
def test_a_mistake_in_a_request(server: Server, changes: dict[str, object], status: int, message: str) -> None:
    answer = server.post("/api/steps", {"model": "small", "source": SOURCES[3], **changes})
    assert answer.status == status
    assert message in answer.json["error"]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/api/steps", {"source": SOURCES[3], "weights": {"0": [1.0] * 6}}),
        ("/api/pair", {"source": SOURCES[0], "target": REFERENCES[0]}),
        ("/api/align", {"sources": SOURCES[:1], "targets": REFERENCES[:1]}),
    ],
)
def test_what_needs_attention_is_refused_by_a_model_without(server: Server, path: str, body: dict[str, object]) -> None:
    answer = server.post(path, body | {"model": "plain"})
    assert (answer.status, answer.json) == (422, {"error": "plain has no attention; choose a model that has"})


def test_the_page_translates(server: Server, browser: Browser) -> None:  # noqa: F811
    errors: list[str] = []
    page = browser.new_context().new_page()
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    response = page.goto(server.url)
    assert response is not None
    assert "script-src 'sha256-" in response.headers["content-security-policy"]
    translate(page, SOURCES[2], models=["plain"])
    page.locator(".tree .node.best").first.wait_for()
    assert page.locator(".equations").is_hidden()
    translate(page, SOURCES[3], models=["small"])
    page.locator(".tree .node.best").first.wait_for()
    page.locator("#given summary").click()
    page.locator("#target").fill(REFERENCES[3])
    page.locator("#translate").click()
    page.locator(".links-view").wait_for()
    page.context.close()
    assert errors == []


def test_the_page_asks_for_a_key_when_it_needs_one(checkpoint: Path, browser: Browser, tmp_path: Path) -> None:  # noqa: F811
    file = tmp_path / "keys"
    file.write_text("a key\n", encoding="utf-8")
    with serving_process(checkpoint, options=("--api-keys", file)) as keyed:
        page = browser.new_context().new_page()
        page.goto(keyed.url)
        key = page.get_by_label("API key")
        assert key.is_hidden()
        page.locator("#source").fill(SOURCES[3])
        page.locator("#translate").click()
        key.wait_for()
        assert "API key missing or wrong" in page.locator("#notice").inner_text()
        key.fill("a key")
        translate(page, SOURCES[3], models=["small"])
        page.locator(".tree .node.best").first.wait_for()
        page.context.close()
