"""Models on the Hugging Face hub, with a server of its protocol on this machine."""

from __future__ import annotations

import builtins
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import nmt
from nmt.checkpoint import find, load_model_files, read_metadata
from nmt.checkpoint.folder import TRAINING_FILE, read_config_text
from nmt.checkpoint.huggingface import MODEL_FILES, HubName, is_hub_name
from nmt.cli import evaluate, hub, translate
from nmt.data.lexicons import LEXICON_FILE
from nmt.errors import CheckpointError
from nmt.tasks.components import parse_saved_config
from nmt.tasks.publishing import publish, without_folders
from tests.support.commands import Call
from tests.support.hub_server import Hub, running_hub
from tests.support.models import SOURCES

constants = pytest.importorskip("huggingface_hub.constants")

TOKEN = "hf_" + "secret" * 5
NAME = "someone/small"
WRITTEN = ["README.md", "config.yaml", "metadata.json", "model.safetensors", "tokenizer.model"]
"""Files of the small translator on the hub."""
ONE = f"{SOURCES[0]}\n".encode()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """A hub with no models, an empty cache, and the token that may write."""
    with running_hub(TOKEN) as running:
        monkeypatch.setenv("HF_ENDPOINT", running.address)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub-cache"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
        yield running


def push(call: Call, model: Path, *options: object) -> None:
    ended = call(hub.main, "push", NAME, "--model", model, *options)
    assert (ended.code, ended.errors) == (0, "")


def test_a_model_is_pushed_and_used_by_its_name(checkpoint: Path, server: Hub, call: Call, tmp_path: Path) -> None:
    ended = call(hub.main, "push", f"hf://{NAME}", "--model", checkpoint)
    assert (ended.code, ended.errors) == (0, "")
    files = server.files(NAME)
    assert server.models[NAME].private
    assert {
        "README.md",
        "config.yaml",
        "metadata.json",
        "model.safetensors",
        "tokenizer.model",
        ".gitattributes",
    } == set(files)
    shown = [line.split("  ")[0] for line in ended.output.splitlines()[:-1]]
    assert shown == sorted(set(files) - {".gitattributes"})
    assert f"MODEL is `hf://{NAME}`" in files["README.md"].decode()
    expected = call(translate.main, "--model", checkpoint, "--device", "cpu", stdin=ONE)
    actual = call(translate.main, "--model", f"hf://{NAME}", "--device", "cpu", stdin=ONE)
    assert (actual.code, actual.output) == (0, expected.output)
    translated = nmt.load(f"hf://{NAME}", device="cpu").translate([SOURCES[0]])
    assert translated[0].text + "\n" == expected.output
    pulled = call(hub.main, "pull", NAME, "--output", tmp_path / "copy")
    assert (pulled.code, pulled.output) == (0, f"{tmp_path / 'copy'}\n")
    assert {file.name: file.read_bytes() for file in (tmp_path / "copy").iterdir()} == {
        name: content for name, content in files.items() if name != ".gitattributes"
    }
    load_model_files(tmp_path / "copy")


def test_a_revision_is_a_branch_or_a_commit_and_a_new_model_is_private_unless_public(
    checkpoint: Path, server: Hub, call: Call
) -> None:
    push(call, checkpoint, "--public")
    assert not server.models[NAME].private
    first = server.models[NAME].branches["main"]
    ended = call(hub.main, "push", f"{NAME}@v2", "--model", checkpoint)
    assert (ended.code, ended.errors) == (0, "")
    second = server.models[NAME].commit("v2", {"README.md": b"second"})
    assert find(f"hf://{NAME}").name == first == find(f"hf://{NAME}@{first}").name
    assert find(f"hf://{NAME}@v2").name == second
    with pytest.raises(CheckpointError) as caught:
        find(f"hf://{NAME}@v3")
    assert caught.value.problems == (f"hf://{NAME}@v3: it has no revision v3",)


def test_only_the_files_of_a_model_are_pushed_and_no_folder_of_the_machine(
    checkpoint: Path, server: Hub, call: Call, tmp_path: Path
) -> None:
    model = tmp_path / "model"
    shutil.copytree(checkpoint, model)
    for name in (TRAINING_FILE, "train.log", "notes.txt", LEXICON_FILE):
        (model / name).write_text("mine", encoding="utf-8")
    ended = call(hub.main, "push", NAME, "--model", model, "--dry-run")
    assert (ended.code, server.models) == (0, {})
    shown = [line.split("  ")[0] for line in ended.output.splitlines()[:-1]]
    assert shown == ["README.md", "config.yaml", LEXICON_FILE, "metadata.json", "model.safetensors", "tokenizer.model"]
    assert ended.output.endswith("nothing is uploaded, because of --dry-run\n")
    assert set(shown) < set(MODEL_FILES)


def test_absolute_paths_in_a_config_become_their_last_names(checkpoint: Path, tmp_path: Path) -> None:
    text = read_config_text(checkpoint)
    overrides = [
        "run=/home/someone/runs/x",
        "tokenizer.file=/home/someone/s.model",
        r"data.cache=C:\Users\someone\cache",
    ]
    config: Any = without_folders(parse_saved_config(text, "test", overrides))
    assert (config.run, config.tokenizer.file, config.data.cache) == ("x", "s.model", "cache")
    assert config.data.train[0].source == "train.de"
    model, published = tmp_path / "model", tmp_path / "published"
    shutil.copytree(checkpoint, model)
    published.mkdir()
    publish(model, None, published, "hf://a/b")
    assert load_model_files(published).tensors.keys() == load_model_files(model).tensors.keys()
    assert TRAINING_FILE not in read_metadata(published).files


def test_a_folder_that_is_no_model_and_a_damaged_one_are_not_pushed(
    checkpoint: Path, server: Hub, call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # A message names the runs that are there, and a working directory may have some.
    ended = call(hub.main, "push", NAME, "--model", tmp_path)
    assert (ended.code, ended.errors) == (2, f"{tmp_path}: neither a run nor a checkpoint\n")
    model = tmp_path / "model"
    shutil.copytree(checkpoint, model)
    with (model / "model.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\1")
    ended = call(hub.main, "push", NAME, "--model", model)
    assert ended.code == 2
    assert "SHA-256 is not the one" in ended.errors
    assert server.models == {}


def test_a_model_that_was_changed_on_the_hub_is_not_used(checkpoint: Path, server: Hub, call: Call) -> None:
    push(call, checkpoint)
    weights = server.files(NAME)["model.safetensors"]
    server.models[NAME].commit("main", {"model.safetensors": weights[:-1] + b"\1"})
    for main, arguments in ((hub.main, ["pull", NAME]), (translate.main, ["--model", f"hf://{NAME}"])):
        ended = call(main, *arguments, stdin=ONE)
        assert ended.code == 2
        assert "SHA-256 is not the one of metadata.json" in ended.errors
    server.models["someone/other"] = server.models[NAME]
    del server.files("someone/other")["metadata.json"]
    server.models[NAME].commit("main", {})
    ended = call(hub.main, "pull", "someone/other")
    assert (ended.code, ended.errors) == (2, "hf://someone/other: is no model of nmt, metadata.json is missing\n")


def test_without_a_connection_the_cache_is_used(
    checkpoint: Path, server: Hub, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    push(call, checkpoint)
    folder = find(f"hf://{NAME}")
    asked = len(server.requests)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert find(f"hf://{NAME}") == folder
    ended = call(hub.main, "pull", "someone/other")
    problem = "it is not in the cache, and the hub cannot be reached; go online, and unset HF_HUB_OFFLINE"
    assert (ended.code, ended.errors) == (2, f"hf://someone/other: {problem}\n")
    ended = call(hub.main, "push", NAME, "--model", checkpoint)
    assert (ended.code, len(ended.errors.splitlines())) == (2, 1)
    assert len(server.requests) == asked


@pytest.mark.parametrize("action", ["push", "pull"])
def test_no_token_is_shown(
    checkpoint: Path, server: Hub, call: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, action: str
) -> None:
    """The server repeats the token that it got in its error."""
    push(call, checkpoint)
    wrong = "hf_" + "wrong" * 6
    monkeypatch.setenv("HF_TOKEN", wrong)
    ended = call(hub.main, action, NAME, *(["--model", checkpoint] if action == "push" else []))
    assert ended.code == 2
    assert wrong not in ended.errors + ended.output
    assert ended.errors.startswith(f"hf://{NAME}: ")
    assert len(ended.errors.splitlines()) == 1
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert call(hub.main, "pull", NAME).code == 0
    stored = [file for file in tmp_path.rglob("*") if file.is_file() and TOKEN.encode() in file.read_bytes()]
    assert stored == []


def test_a_missing_package_is_one_line(
    checkpoint: Path, server: Hub, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def without(name: str, *arguments: Any) -> Any:
        if name.split(".")[0] == "huggingface_hub":
            raise ImportError(name)
        return real(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", without)
    ended = call(translate.main, "--model", f"hf://{NAME}", stdin=ONE)
    expected = f"hf://{NAME}: needs the package huggingface_hub; install it with pip install 'nmt-attention[hub]'\n"
    assert (ended.code, ended.errors) == (2, expected)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("a/b", HubName("a/b")),
        ("hf://a/b", HubName("a/b")),
        (str(Path("hf://a-1/b.2_c@v1.0")), HubName("a-1/b.2_c", "v1.0")),
        ("hf://a/b@refs/pr/1", HubName("a/b", "refs/pr/1")),
    ],
)
def test_names(text: str, name: HubName) -> None:
    assert HubName.of(text) == name
    assert HubName.of(str(name)) == name
    assert is_hub_name(str(name))
    assert is_hub_name(Path(str(name)))


@pytest.mark.parametrize("text", ["hf://a", "hf://a/b/c", "hf://a/b@", "hf://a/..", "a b/c", "hf://a/b@../x"])
def test_a_wrong_name_is_one_line(text: str, call: Call) -> None:
    ended = call(hub.main, "pull", text)
    expected = f"{text}: no name of a model on the hub; write hf://USER/NAME or hf://USER/NAME@REVISION\n"
    assert (ended.code, ended.errors) == (2, expected)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["push", NAME], "push: name the model with --model"),
        (["push", NAME, "--model", "x", "--output", "y"], "--output does not go with push"),
        (["pull", NAME, "--model", "x"], "--model does not go with pull"),
        (["pull", NAME, "--dry-run"], "--dry-run does not go with pull"),
    ],
)
def test_wrong_arguments(arguments: list[str], problem: str, call: Call) -> None:
    ended = call(hub.main, *arguments)
    assert (ended.code, ended.errors) == (2, f"nmt-hub: {problem}\n")


def test_scores_go_into_a_card_in_a_folder(call: Call) -> None:
    ended = call(evaluate.main, "--model", f"hf://{NAME}", "--card")
    assert ended.code == 2
    assert ended.errors.endswith("--card is for a model in a folder; get it with nmt-hub pull --output\n")


def test_the_environment_names_hub_cache_and_token(checkpoint: Path, server: Hub, call: Call, tmp_path: Path) -> None:
    """In a process of its own, as a user runs it."""
    push(call, checkpoint)
    cache = {"HF_HOME": str(tmp_path / "home"), "HF_ENDPOINT": server.address, "HF_TOKEN": TOKEN}
    command = [sys.executable, "-m", "nmt.cli.hub", "pull", NAME]
    ended = subprocess.run(command, env=os.environ | cache, capture_output=True, text=True, timeout=120, check=True)
    assert Path(ended.stdout.strip()).is_relative_to(tmp_path / "home" / "hub")
