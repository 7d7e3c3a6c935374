"""nmt-serve as a process: answers, limits, and how it ends."""

from __future__ import annotations

import asyncio
import json
import re
import shlex
import shutil
import signal
import socket
import subprocess
import threading
import time
import urllib.error
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random
from typing import Any

import libretranslatepy
import pytest
from jsonschema import Draft202012Validator

import nmt
from nmt.api.results import TranslationResult
from nmt.api.text_translator import TextTranslator
from nmt.cli import serve
from nmt.data.tokenizer import TokenizerPair
from nmt.serve.application import build_application
from nmt.serve.connections import build_server
from nmt.serve.keys import Keys
from nmt.serve.limits import Limits
from nmt.serve.models import Models, ServedModel
from nmt.serve.monitoring import Metrics
from nmt.tasks.translation.loading import TrainedModel
from scripts.server_load.clients import Results, load
from scripts.server_load.hostile import attack, run_attack
from scripts.server_load.process import Client, Server, serving
from tests.support.commands import Call
from tests.support.models import CPU, REFERENCES, SOURCES, save_small

KEY = "a key of this test"


@pytest.fixture(scope="module")
def back(tmp_path_factory: pytest.TempPathFactory, tokenizers: TokenizerPair) -> Path:
    """A model from English to German; its translations do not matter."""
    languages = ["data.source_language=en", "data.target_language=de"]
    return save_small(tmp_path_factory.mktemp("models") / "back", tokenizers, seed=2, overrides=languages)


@pytest.fixture(scope="module")
def server(checkpoint: Path, back: Path) -> Iterator[Server]:
    with serving(checkpoint, back) as running:
        yield running


@pytest.fixture(scope="module")
def keyed(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that answers only those who have a key."""
    file = tmp_path_factory.mktemp("keys") / "keys"
    file.write_text(f"# of tests\nanother key\n\n{KEY}\n", encoding="utf-8")
    with serving(checkpoint, options=("--api-keys", file)) as running:
        yield running


def test_answers_are_those_of_the_python_api(server: Server, checkpoint: Path) -> None:
    settings = {"n_best": 2, "beam_size": 4, "length_penalty": 0.5}
    prefixes = ["", "the", "", "two", "", ""]
    expected = nmt.load(checkpoint).translate(SOURCES, prefixes=prefixes, heads=True, **settings)
    body = {"lines": SOURCES, "prefixes": prefixes, "attention": True, "heads": True, **settings}
    answer = server.post("/api/translate", body | {"source": "de", "target": "en"})
    assert answer.status == 200
    assert answer.json["model"] == "small"
    for line, result in zip(answer.json["lines"], expected, strict=True):
        assert (line["source"], line["translation"]) == (result.source, result.text)
        assert line["source_pieces"] == list(result.source_pieces)
        assert [each["text"] for each in line["hypotheses"]] == [each.text for each in result.hypotheses]
        for got, each in zip(line["hypotheses"], result.hypotheses, strict=True):
            assert got["pieces"] == list(each.pieces)
            assert got["score"] == each.score
            assert got["log_probability"] == each.log_probability
            assert got["log_probabilities"] == list(each.piece_log_probabilities)
            assert got["attention"] == each.attention.astype(float).round(6).tolist()
            assert got["head_attention"] == each.head_attention.astype(float).round(6).tolist()


def test_requests_of_many_clients_share_batches_and_each_gets_its_own_translation(
    server: Server, checkpoint: Path
) -> None:
    lines = [*SOURCES, *(f"{a} {b}" for a in SOURCES for b in SOURCES), ""]
    alone = nmt.load(checkpoint)
    expected = {line: alone.translate([line])[0] for line in lines}
    shares = [Random(seed).sample(lines, 7) for seed in range(40)]

    def batches() -> tuple[float, float]:
        labels = '{model="small"}'
        return server.metric("nmt_batch_sentences_count", labels), server.metric("nmt_batch_sentences_sum", labels)

    before = batches()
    with ThreadPoolExecutor(20) as clients:
        answers = list(
            clients.map(lambda share: server.post("/api/translate", {"lines": share, "model": "small"}), shares)
        )
    after = batches()
    for share, answer in zip(shares, answers, strict=True):
        assert answer.status == 200
        for line, got in zip(share, answer.json["lines"], strict=True):
            assert got["source"] == line
            assert got["translation"] == expected[line].text
            scores = [each["score"] for each in got["hypotheses"]]
            assert scores == pytest.approx([each.score for each in expected[line].hypotheses], rel=1e-5)
    assert after[1] - before[1] == 40 * 7
    assert after[0] - before[0] < 40, "requests shared no batch"


def test_sampling_does_not_depend_on_other_clients(server: Server, checkpoint: Path) -> None:
    settings = {"kind": "sampling", "n_best": 3, "temperature": 2.0, "seed": 7}
    expected = [
        [each.text for each in result.hypotheses] for result in nmt.load(checkpoint).translate(SOURCES, **settings)
    ]
    with ThreadPoolExecutor(5) as clients:
        answers = list(clients.map(lambda _: server.post("/api/translate", {"lines": SOURCES, **settings}), range(5)))
    for answer in answers:
        assert [[each["text"] for each in line["hypotheses"]] for line in answer.json["lines"]] == expected


def test_scores_and_alignments_are_those_of_the_python_api(server: Server, checkpoint: Path) -> None:
    translator = nmt.load(checkpoint)
    sources, targets = [*SOURCES, "", "hund"], [*REFERENCES[1:], REFERENCES[0], "dog", ""]
    pairs = {"sources": sources, "targets": targets, "model": "small"}
    answer = server.post("/api/score", pairs)
    for got, expected in zip(answer.json["pairs"], translator.score(sources, targets), strict=True):
        assert (got["source"], got["target"], got["pieces"]) == (
            expected.source,
            expected.target,
            list(expected.pieces),
        )
        is_scored = bool(expected.source and expected.target)
        assert got["log_probability"] == (expected.log_probability if is_scored else None)
        assert got["per_piece"] == (expected.per_piece if is_scored else None)
        assert got["log_probabilities"] == list(expected.piece_log_probabilities)
    answer = server.post("/api/align", pairs | {"unit": "pieces", "linking": "argmax", "heads": True})
    expected_links = translator.align(sources, targets, unit="pieces", linking="argmax")
    for got, expected in zip(answer.json["pairs"], expected_links, strict=True):
        assert [tuple(link) for link in got["links"]] == list(expected.links)
        assert got["source_pieces"] == list(expected.source_pieces)
        if expected.weights is None:
            assert (got["attention"], got["head_attention"]) == (None, None)
        else:
            assert got["attention"] == expected.weights.astype(float).round(6).tolist()
            assert got["head_attention"] == expected.head_weights.astype(float).round(6).tolist()
    assert answer.json["pairs"][0]["links"] != []


def test_the_client_of_libretranslate_works(server: Server) -> None:
    client = libretranslatepy.LibreTranslateAPI(server.url)
    assert client.translate(SOURCES[0], "de", "en") == REFERENCES[0]
    assert client.languages() == [
        {"code": "de", "name": "German", "targets": ["en"]},
        {"code": "en", "name": "English", "targets": ["de"]},
    ]
    detected = client.detect("der hund schläft im garten und eine katze sieht den vogel")
    assert [each["language"] for each in detected] == ["de", "en"]
    assert detected[0]["confidence"] > 90
    with pytest.raises(urllib.error.HTTPError) as refused:
        client.translate("hund", "fr", "en")
    assert refused.value.code == 400
    assert "no model with source fr, target en" in json.loads(refused.value.read())["error"]


def test_paragraphs_keep_their_white_space(server: Server) -> None:
    text = f"\n  {SOURCES[0]}\n\n{SOURCES[3]}\t\n {SOURCES[5]}  "
    expected = f"\n  {REFERENCES[0]}\n\n{REFERENCES[3]}\t\n {REFERENCES[5]}  "
    answer = server.post("/translate", {"q": text, "source": "de", "target": "en"})
    assert answer.json == {"translatedText": expected}
    many = {"q": [text, "", SOURCES[1]], "source": "auto", "target": "en", "alternatives": 1}
    answer = server.post("/translate", many)
    assert answer.json["translatedText"] == [expected, "", REFERENCES[1]]
    assert [each["language"] for each in answer.json["detectedLanguage"]] == ["de"] * 3
    assert [len(each) for each in answer.json["alternatives"]] == [1] * 3
    assert answer.json["alternatives"][0][0] != expected
    assert answer.json["alternatives"][0][0].split("\n")[0] == ""


BODY = {"lines": ["hund"]}


@pytest.mark.parametrize(
    ("path", "body", "status", "error"),
    [
        ("/api/translate", {"lines": ["a"], "source": "fr"}, 400, "no model with source fr; there are: small (de to"),
        ("/api/translate", BODY | {"model": "big"}, 400, "no model with name big"),
        ("/api/translate", BODY | {"beem_size": 3}, 422, "beem_size: Extra inputs are not permitted"),
        ("/api/translate", BODY | {"beam_size": 1000}, 422, "beam_size: Input should be less than or equal to 20"),
        ("/api/translate", BODY | {"n_best": 5, "beam_size": 2}, 422, "n_best: is 5, above beam_size (2)"),
        ("/api/translate", BODY | {"temperature": 2.0}, 422, "temperature: has no effect with kind"),
        ("/api/translate", BODY | {"prefixes": []}, 422, "prefixes: has 0 entries, and lines has 1"),
        ("/api/translate", b'{"lines": ["\\ud800"]}', 422, "character 1 of entry 1 is half of a character"),
        ("/api/translate", b'{"lines": ["a"], "prefixes": ["\\ud800"]}', 422, "prefixes: character 1 of entry 1"),
        ("/api/translate", b'{"lines": ["a"], "model": "\\ud800"}', 400, "no model with name ?"),
        ("/api/translate", b'{"lines": [1e400]}', 422, "lines.0: Input should be a valid string"),
        ("/api/translate", b'{"lines": ["a"], "length_penalty": NaN}', 422, "length_penalty: Input should be a finite"),
        ("/api/translate", b'{"lines": ["a"', 422, "JSON decode error"),
        ("/api/translate", b"[" * 100_000, 422, "the body is no valid JSON"),
        ("/api/translate", b"\xff", 422, "JSON"),
        ("/api/translate", {}, 422, "lines: Field required"),
        ("/api/translate", {"lines": ["der " * 600]}, 413, "sentence 1 has "),
        ("/api/translate", {"lines": ["a"] * 501}, 413, "501 sentences; a request may have 500"),
        ("/api/translate", {"lines": ["a" * 1000] * 21}, 413, "21,000 characters; a request may have 20,000"),
        ("/api/translate", b" " * 1_100_000, 413, "the body is too large; it may have 1,048,576 bytes"),
        ("/api/score", {"sources": ["a"], "targets": []}, 422, "targets: has 0 entries, and sources has 1"),
        ("/api/score", {"sources": ["a"], "targets": ["der " * 600]}, 413, "sentence 1 has "),
        ("/api/align", {"sources": [], "targets": [], "unit": "letters"}, 422, "unit: Input should be '"),
        ("/api/align", {"sources": ["ab " * 150] * 9, "targets": ["ab " * 150] * 9, "heads": True}, 413, "some "),
        ("/translate", {"q": "a", "source": "de", "target": "fr"}, 400, "no model with source de, target fr"),
        ("/translate", {"q": "a", "source": "auto", "target": "fr"}, 400, "no model with target fr"),
        ("/translate", {"q": "a", "source": "de", "target": "en", "format": "b"}, 422, "format: Input should be"),
        ("/translate", {"source": "de", "target": "en"}, 422, "q: Field required"),
        ("/translate", b"[" * 100_000, 422, "Invalid JSON"),
        ("/nothing", {}, 404, "Not Found"),
        ("/health", {}, 405, "Method Not Allowed"),
    ],
)  # fmt: skip
def test_wrong_requests_get_a_clear_answer(server: Server, path: str, body: object, status: int, error: str) -> None:
    answer = server.post(path, body)
    assert (answer.status, error in answer.json["error"]) == (status, True), answer.body
    assert list(answer.json) == ["error"]


def test_answers_have_safe_headers_and_no_paths(server: Server, checkpoint: Path) -> None:
    answers = [server.request("GET", path) for path in ("/health", "/nothing", "/api/models", "/openapi.json", "/%00")]
    answers.append(server.post("/api/translate", BODY | {"coverage_penalty": 1e300}))
    for answer in answers:
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["x-frame-options"] == "DENY"
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert "server" not in answer.headers
        assert str(checkpoint.parent).encode() not in answer.body
        assert b"Traceback" not in answer.body


def test_the_api_is_described(server: Server) -> None:
    description = server.request("GET", "/openapi.json").json
    assert description["openapi"].startswith("3.1")
    assert {"/api/translate", "/api/models", "/translate", "/detect", "/languages", "/health", "/metrics"} <= set(
        description["paths"]
    )
    request = {"$ref": "#/components/schemas/TranslateRequest", "components": description["components"]}
    assert Draft202012Validator(request).is_valid({"lines": ["a"], "n_best": 3})
    assert not Draft202012Validator(request).is_valid({"lines": ["a"], "n_best": 0})
    answer = {"$ref": "#/components/schemas/TranslateAnswer", "components": description["components"]}
    content = server.post("/api/translate", {"lines": SOURCES, "attention": True}).json
    Draft202012Validator(answer).validate(content)


def test_health_and_models(server: Server) -> None:
    assert server.request("GET", "/health").json == {"status": "ok", "models": ["small", "back"]}
    models = server.request("GET", "/api/models").json
    assert models[1] == {"model": "back", "source": "en", "target": "de", "attention": True}
    before = server.metric("nmt_requests_total", '{route="/health",status="200"}')
    server.request("GET", "/health")
    assert server.metric("nmt_requests_total", '{route="/health",status="200"}') == before + 1


def test_a_key_is_required_where_there_are_keys(keyed: Server) -> None:
    body = {"lines": [SOURCES[0]]}
    assert keyed.post("/api/translate", body).status == 401
    assert keyed.post("/api/translate", body, {"Authorization": "Bearer wrong"}).status == 401
    assert keyed.post("/api/translate", body, {"X-API-Key": f"{KEY} "[:-2]}).status == 401
    assert keyed.post("/api/translate", body, {"Authorization": f"Bearer {KEY}"}).status == 200
    assert keyed.post("/api/translate", body, {"X-API-Key": "another key"}).status == 200
    assert keyed.request("GET", "/metrics").status == 401
    assert keyed.request("GET", "/health").status == 200
    libre = {"q": SOURCES[0], "source": "de", "target": "en"}
    assert keyed.post("/translate", libre).status == 403
    assert keyed.post("/translate", libre | {"api_key": "# of tests"}).status == 403
    client = libretranslatepy.LibreTranslateAPI(keyed.url, KEY)
    assert client.translate(SOURCES[0], "de", "en") == REFERENCES[0]


def wait_until(happens: Callable[[], bool], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not happens():
        assert time.monotonic() < end, f"not within {seconds:g} seconds"
        time.sleep(0.01)


class Paused(TextTranslator):
    """A translator that waits until it is released."""

    busy, released = threading.Event(), threading.Event()

    def translate(self, *arguments: Any, **options: Any) -> list[TranslationResult]:
        self.busy.set()
        assert self.released.wait(60)
        return super().translate(*arguments, **options)


def test_a_busy_server_refuses_gives_up_and_forgets_those_who_leave(model: TrainedModel) -> None:
    # An answer may take longer than the time for a body.
    limits, metrics = Limits(queue=5, seconds=5.0, body_seconds=2.0), Metrics()
    served = ServedModel("small", Paused([model], CPU), limits, metrics)
    running = build_server(build_application(Models([served]), limits, Keys([]), metrics), limits)
    with socket.socket() as listener, ThreadPoolExecutor(4) as clients:
        listener.bind(("127.0.0.1", 0))
        server = Client(listener.getsockname()[1])
        clients.submit(running.run, [listener])
        try:
            wait_until(lambda: running.started)
            first = clients.submit(server.post, "/api/translate", {"lines": [SOURCES[0]]})
            assert Paused.busy.wait(20)

            # A client that leaves while its sentences wait.
            body = b'{"lines": ["a", "b", "c"]}'
            head = f"POST /api/translate HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n"
            with socket.create_connection(("127.0.0.1", server.port)) as leaver:
                leaver.sendall(head.encode() + b"Content-Type: application/json\r\n\r\n" + body)
                wait_until(lambda: served.batcher.waiting == 3)
                refused = server.post("/api/translate", {"lines": ["a", "b", "c"]})
                assert refused.status == 429
                assert "3 sentences wait already" in refused.json["error"]
                assert int(refused.headers["retry-after"]) >= 1
            wait_until(lambda: not served.batcher.waiting)
            gone = '{route="/api/translate",status="499"}'
            wait_until(lambda: server.metric("nmt_requests_total", gone) == 1)
            given_up = first.result()
            assert given_up.status == 504
            assert given_up.json == {"error": "not finished within 5 seconds; send less text at once"}
            Paused.released.set()
            assert server.post("/translate", {"q": SOURCES[0], "source": "de", "target": "en"}).json == {
                "translatedText": REFERENCES[0]
            }
            served.batcher.close()
            health = server.request("GET", "/health")
            assert (health.status, health.json) == (503, {"error": "models that no longer translate: small"})
        finally:
            Paused.released.set()
            running.should_exit = True
            served.batcher.close()


def test_slow_requests_are_given_up(server: Server) -> None:
    """The head, the body, or nothing at all: within the 10 seconds that the server allows."""
    head = b"POST /api/translate HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 100\r\n"

    def answer_to(data: bytes) -> bytes:
        with socket.create_connection(("127.0.0.1", server.port), timeout=30) as client:
            answer = b""
            client.sendall(data)
            while part := client.recv(10_000):
                answer += part
            return answer

    with ThreadPoolExecutor(3) as clients:
        nothing, half, body = clients.map(answer_to, (b"", head, head + b'\r\n{"lines"'))
    assert (nothing, half) == (b"", b"")
    assert body.startswith(b"HTTP/1.1 408 ")
    assert b"the body took more than 10 seconds" in body


@pytest.mark.parametrize("seed", [1])
def test_hostile_requests_break_nothing(server: Server, checkpoint: Path, seed: int) -> None:
    random, problems = Random(seed), []
    secrets = [str(checkpoint.parent).encode(), str(Path(nmt.__file__).parent).encode()]

    async def attacks() -> None:
        limit = asyncio.Semaphore(30)

        async def one() -> None:
            async with limit:
                drawn = attack(random)
                if problem := await run_attack(server.port, drawn, secrets):
                    problems.append(f"{drawn}: {problem}"[:500])

        await asyncio.gather(*(one() for _ in range(300)))

    asyncio.run(attacks())
    assert problems == []
    assert [line for line in server.log if "Traceback" in line] == []
    assert (
        server.post("/api/translate", {"lines": SOURCES, "model": "small"}).json["lines"][0]["translation"]
        == REFERENCES[0]
    )
    time.sleep(1)
    assert server.metric("nmt_waiting_sentences", '{model="small"}') == 0
    assert server.metric("process_open_fds") < 60


def test_sigterm_finishes_accepted_requests(checkpoint: Path) -> None:
    with serving(checkpoint) as running:
        body = {"lines": [f"{a} {b}" for a in SOURCES for b in SOURCES]}
        expected = [line["translation"] for line in running.post("/api/translate", body).json["lines"]]
        with ThreadPoolExecutor(10) as clients:
            answers = [clients.submit(running.post, "/api/translate", body) for _ in range(10)]
            # All are accepted, and the last ones wait.
            end = time.monotonic() + 20
            while running.metric("nmt_waiting_sentences", '{model="small"}') < 36 and time.monotonic() < end:
                pass
            running.process.send_signal(signal.SIGTERM)
            lines = [answer.result().json["lines"] for answer in answers]
            assert [[line["translation"] for line in each] for each in lines] == [expected] * 10
        assert running.process.wait(60) == -signal.SIGTERM
        with pytest.raises(ConnectionRefusedError):
            running.request("GET", "/health")


def test_clients_of_a_server_that_stops_get_an_answer_or_no_connection(checkpoint: Path) -> None:
    results = Results()

    async def stop_under_load(running: Server) -> None:
        clients = asyncio.ensure_future(load(running.port, SOURCES, 20, 600.0, results))
        while results.outcomes["200"] < 100:
            await asyncio.sleep(0.01)
        running.process.terminate()
        while not results.outcomes["refused"]:
            await asyncio.sleep(0.01)
        clients.cancel()
        await asyncio.gather(clients, return_exceptions=True)

    with serving(checkpoint) as running:
        asyncio.run(asyncio.wait_for(stop_under_load(running), 300))
        assert running.process.wait(60) == -signal.SIGTERM
    # The last answer on a connection announces that it is closed: no client sends a request that is lost.
    assert set(results.outcomes) == {"200", "refused"}


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (["--api-keys", "no/file"], "no/file: No such file or directory"),
        (["--api-keys", "empty"], "empty: has no key; write a key a line, or leave out --api-keys"),
        (["--port", "70000"], "--port: must be"),
        (["--max-queue", "10"], "--max-queue: must be --max-sentences (500) at least"),
        (["--host", "256.0.0.1"], "--host 256.0.0.1 --port 5000: "),
    ],
)
def test_mistakes_are_one_line(
    call: Call, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], error: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty").write_text("# none yet\n\n")
    ended = call(serve.main, "--model", checkpoint, *options)
    assert ended.code == 2
    assert error in ended.errors
    assert ended.errors.count("\n") == 1


def test_a_port_in_use_and_equal_names_are_mistakes(call: Call, checkpoint: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        ended = call(serve.main, "--model", checkpoint, "--port", other.getsockname()[1])
    assert (ended.code, ended.errors.count("\n")) == (2, 1)
    assert "Address already in use; choose others" in ended.errors
    ended = call(serve.main, "--model", checkpoint, "--model", checkpoint, "--port", 0)
    assert (ended.code, ended.errors) == (2, "--model: two models are named small; rename the folder of one of them\n")


def test_the_commands_of_the_page_work(server: Server) -> None:
    """Every `$ curl` of docs/serving.md succeeds. Its model is English to German, as the second one of this server."""
    page = (Path(__file__).parent.parent / "docs" / "serving.md").read_text(encoding="utf-8")
    commands = re.findall(r"^\$ (curl .*)$", page, re.MULTILINE)
    assert len(commands) >= 8
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    for command in commands:
        words = shlex.split(command.replace("http://127.0.0.1:5000", server.url).replace("quickstart", "back"))
        done = subprocess.run([*words, "--fail-with-body", "-sS"], capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stderr) == (0, ""), f"{command}: {done.stdout}"
        assert done.stdout.startswith(("{", "[", "#")), command
