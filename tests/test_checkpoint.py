"""Checkpoints: whole or not there, verified when read, and never overwritten."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import pickle
import random
import select
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nmt import checkpoint, runtime
from nmt.checkpoint import Origin, RunFolder, Snapshot
from nmt.checkpoint.folder import CONFIG_FILE, MODEL_FILE, TRAINING_FILE, read_config_text
from nmt.checkpoint.metadata import METADATA_FILE, describe
from nmt.config import Components, PartOptions, Registry, TranslationConfig, dump_config, parse_config, schema
from nmt.data import tokenizer
from nmt.data.tokenizer import TokenizerPair
from nmt.errors import CheckpointError, ConfigError
from tests.support.commands import give_up_reading_everything

with contextlib.suppress(ImportError):  # not on Windows
    import resource


class TextOptions(PartOptions):
    """Options of a corpus."""

    source: str
    """Source file."""
    target: str
    """Target file."""


class NoOptions(PartOptions):
    """A part without options."""


def family(name: str, *kinds: str, options: type[PartOptions] = NoOptions) -> Registry[Any]:
    registry: Registry[Any] = Registry(name)
    for kind in kinds:
        registry.register(kind, options)(lambda options: options)
    return registry


COMPONENTS = Components(
    {
        "corpus": family("corpus", "text", options=TextOptions),
        "cell": family("cell", "gru", "lstm"),
        "score": family("score", "general", "dot"),
        "window": family("window", "global"),
        "normalizer": family("normalizer", "softmax"),
        "wiring": family("wiring", "luong"),
        "coverage": family("coverage", "none"),
        "objective": family("objective", "likelihood"),
        "context": family("context", "none"),
        "optimizer": family("optimizer", "adamw", "sgd"),
        "schedule": family("schedule", "constant", "cosine"),
    }
)
YAML = """
run: runs/x
data:
  source_language: de
  target_language: en
  train: {source: train.de, target: train.en}
  validation: {source: validation.de, target: validation.en}
"""


def read_config(folder: Path) -> TranslationConfig:
    return parse_config(read_config_text(folder), str(folder), COMPONENTS)


def configure(*overrides: str) -> TranslationConfig:
    return parse_config(YAML, "test.yaml", COMPONENTS, overrides)


@lru_cache
def learn(size: int, shared: bool = True) -> TokenizerPair:
    options = schema.TokenizerConfig(vocabulary_size=size, shared=shared)
    text = [("ein hund rennt schnell", "a dog runs fast"), ("eine katze schläft", "a cat sleeps")]
    return tokenizer.learn(options, lambda: text, seed=1)


def snapshot(step: int, metrics: dict[str, float | None] | None = None, **changes: Any) -> Snapshot:
    """A checkpoint whose every number is its step."""
    given: dict[str, Any] = {
        "model": {"embedding": torch.full((40, 2), float(step)), "bias": torch.full((40,), float(step))},
        "config": configure("training.keep_last=2"),
        "tokenizers": learn(40),
        "origin": Origin(
            step=step, epoch=1, metrics=metrics or {"bleu": 30.5, "loss": float("nan")}, data={"train": "abc"}
        ),
        "training": {"step": step, "momentum": [torch.full((3,), float(step))], "nothing": None},
    }
    return Snapshot(**(given | changes))


def start(path: Path, *overrides: str, fresh: bool = False) -> tuple[RunFolder, Path | None]:
    """Open a run as a training process does, and let the next one open it."""
    run = RunFolder(path)
    resumed, _ = run.open(configure("training.keep_last=2", *overrides), fresh=fresh, read_config=read_config)
    run.close()
    return run, resumed


@pytest.fixture
def run(tmp_path: Path) -> Iterator[RunFolder]:
    folder, resumed = start(tmp_path / "runs" / "x")
    assert resumed is None
    yield folder
    folder.close()


@pytest.fixture
def saved(run: RunFolder) -> Path:
    return run.save(snapshot(7), is_best=True)


@pytest.fixture
def messages(capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[[], str]]:
    runtime.set_up_logging(None, is_main=True)
    yield lambda: capsys.readouterr().err
    for handler in list(runtime.logger.handlers):
        runtime.logger.removeHandler(handler)
    runtime.logger.propagate = True


# Writing and reading back


def test_a_checkpoint_alone_holds_everything(saved: Path, tmp_path: Path) -> None:
    alone = tmp_path / "elsewhere"
    saved.rename(alone)
    loaded = checkpoint.load_model_files(alone)
    assert loaded.tensors.keys() == {"embedding", "bias"}
    assert torch.equal(loaded.tensors["embedding"], torch.full((40, 2), 7.0))
    assert read_config(loaded.path) == configure("training.keep_last=2")
    assert loaded.tokenizers.source.fingerprint == learn(40).source.fingerprint
    assert loaded.tokenizers.shared


def test_metadata_says_where_the_weights_come_from(saved: Path) -> None:
    found = json.loads((saved / METADATA_FILE).read_text())
    assert found["format"] == checkpoint.FORMAT
    assert (found["step"], found["epoch"], found["best"]) == (7, 1, True)
    assert found["metrics"] == {"bleu": 30.5, "loss": None}
    assert (found["source_language"], found["target_language"]) == ("de", "en")
    assert (found["source_vocabulary"], found["target_vocabulary"]) == (40, 40)
    assert found["data"] == {"train": "abc"}
    assert found["versions"]["torch"] == torch.__version__
    assert found["files"].keys() == {MODEL_FILE, CONFIG_FILE, "tokenizer.model", TRAINING_FILE}
    assert found["files"]["tokenizer.model"]["sha256"] == learn(40).source.fingerprint


def test_two_vocabularies_make_two_files(tmp_path: Path) -> None:
    checkpoint.write_checkpoint(tmp_path / "c", snapshot(1, tokenizers=learn(30, shared=False)))
    assert (tmp_path / "c" / "source.model").exists()
    assert (tmp_path / "c" / "target.model").exists()
    assert not checkpoint.load_model_files(tmp_path / "c").tokenizers.shared


def test_the_training_state_comes_back_without_pickled_classes(tmp_path: Path) -> None:
    runtime.seed_everything(1, 0)
    model = nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    state = {"optimizer": optimizer.state_dict(), "random": runtime.rng_state(), "best": 30.5, "order": (1, 2)}
    checkpoint.write_checkpoint(tmp_path / "c", snapshot(1, training=state))
    loaded = checkpoint.load_training_state(tmp_path / "c")
    assert loaded is not None
    assert loaded["best"] == 30.5
    assert loaded["order"] == (1, 2)
    moments = loaded["optimizer"]["state"][0]["exp_avg"]
    assert torch.equal(moments, optimizer.state_dict()["state"][0]["exp_avg"])
    expected = torch.rand(4)
    runtime.set_rng_state(loaded["random"])
    assert torch.equal(torch.rand(4), expected)


def test_the_training_state_may_be_missing(saved: Path, tmp_path: Path) -> None:
    (saved / TRAINING_FILE).unlink()
    assert checkpoint.load_training_state(saved) is None
    assert checkpoint.load_model_files(saved).metadata.step == 7
    checkpoint.write_checkpoint(tmp_path / "c", snapshot(1, training=None))
    assert checkpoint.load_training_state(tmp_path / "c") is None


def test_a_tied_weight_is_not_written_twice(tmp_path: Path) -> None:
    tensor = torch.ones(2)
    with pytest.raises(AssertionError, match="b and a are one tensor"):
        checkpoint.write_checkpoint(tmp_path / "c", snapshot(1, model={"a": tensor, "b": tensor}))
    assert list(tmp_path.iterdir()) == []


def test_views_into_one_buffer_are_saved_apart(tmp_path: Path) -> None:
    buffer = torch.arange(6.0)
    checkpoint.write_checkpoint(tmp_path / "c", snapshot(1, model={"a": buffer[:2], "b": buffer[2:].view(2, 2).t()}))
    tensors = checkpoint.load_model_files(tmp_path / "c").tensors
    assert tensors["a"].tolist() == [0.0, 1.0]
    assert tensors["b"].tolist() == [[2.0, 4.0], [3.0, 5.0]]


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o002, 0o664)])
def test_every_file_has_the_permissions_that_the_umask_gives(tmp_path: Path, mask: int, mode: int) -> None:
    before = os.umask(mask)
    try:
        run, _ = start(tmp_path / "run")
        folder = run.save(snapshot(1), is_best=True)
        run.close()
    finally:
        os.umask(before)
    files = [path for path in (tmp_path / "run").rglob("*") if path.is_file() and path.name != ".lock"]
    assert {MODEL_FILE, TRAINING_FILE, CONFIG_FILE, METADATA_FILE} < {file.name for file in folder.iterdir()}
    assert {file.name: stat.S_IMODE(file.stat().st_mode) for file in files} == dict.fromkeys(
        (file.name for file in files), mode
    )


FULL_DISK = """
import resource, shutil, sys
from pathlib import Path
from nmt.cli.common import user_problems
from nmt.errors import NmtError
from tests.test_checkpoint import Full, start, snapshot

path, full = Path(sys.argv[1]), Full(sys.argv[2])
def tried(act):
    try:
        return act()
    except NmtError as error:
        print(*error.problems, sep="\\n")
full.begin(path.parent, 10)
tried(lambda: start(path))
full.end()
run, resumed = start(path)
assert resumed is None
first = run.save(snapshot(1), is_best=True)
for room in (1000, 6000, 150_000):  # config.yaml fits, the tokenizer, the weights but not the training state
    full.begin(path.parent, room)
    large = {"step": 2, "momentum": [__import__("torch").zeros(100_000)], "nothing": None}
    tried(lambda: run.save(snapshot(2, training=large), is_best=True))
    full.end()
    assert run.checkpoints() == [first] and not list(path.rglob(".tmp-*")), list(path.rglob("*"))
run.close()
again, resumed = start(path)
assert resumed == first
print(again.save(snapshot(2), is_best=True).name)
"""


class Full:
    """A disk with little room: of a file system of its own, or a limit on the size of files, which needs no rights."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.filler = Path()

    def begin(self, folder: Path, room: int) -> None:
        if self.kind == "limit":
            resource.setrlimit(resource.RLIMIT_FSIZE, (room, resource.RLIM_INFINITY))
            return
        self.filler = folder / "filler"
        with self.filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(4096))
        pages = room // 4096
        os.truncate(self.filler, self.filler.stat().st_size - 4096 * pages)

    def end(self) -> None:
        if self.kind == "limit":
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        else:
            self.filler.unlink()


@pytest.mark.skipif(sys.platform == "win32", reason="limits of POSIX")
@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("limit", "File too large; raise the limit on the size of files (ulimit -f)"),
        ("disk", "No space left on device; make room on the disk"),
    ],
)
def test_a_full_disk_is_one_line_and_the_checkpoint_before_stays_whole(tmp_path: Path, kind: str, reason: str) -> None:
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(tmp_path)]
    if kind == "disk" and subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("only root may mount a file system")
    try:
        path = tmp_path / "run"
        command = [sys.executable, "-c", FULL_DISK, str(path), kind]
        done = subprocess.run(command, capture_output=True, text=True, env=ELSEWHERE, timeout=120)
        assert done.returncode == 0, done.stdout + done.stderr
        unwritten = path / "checkpoints" / "step-00000002"
        lines = done.stdout.splitlines()
        assert lines[0].startswith(f"run: {path} cannot be used: ")
        assert lines[0].endswith(reason)
        assert lines[1:] == [f"{unwritten}: cannot be written: {reason}"] * 3 + ["step-00000002"]
        for name in ("step-00000001", "step-00000002"):
            checkpoint.load_model_files(path / "checkpoints" / name)
            assert checkpoint.load_training_state(path / "checkpoints" / name)
    finally:
        if kind == "disk":
            subprocess.run(["umount", str(tmp_path)], check=True)


def test_a_disk_that_refuses_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="cannot be written: Not a directory"):
        checkpoint.write_checkpoint(tmp_path / "file" / "c", snapshot(1))


# Messages about damage


def damage_metadata(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads((folder / METADATA_FILE).read_text())
    change(content)
    (folder / METADATA_FILE).write_text(json.dumps(content))


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-5])


def flip_a_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes(content)


def exchange_vocabulary(folder: Path) -> None:
    learn(36).save(folder)
    now = describe(folder / "tokenizer.model").model_dump()
    damage_metadata(folder, lambda content: content["files"].update({"tokenizer.model": now}))


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "truncated weights": (lambda c: truncate(c / MODEL_FILE), r"model\.safetensors: damaged or exchanged, it has \d+"),
    "flipped bit": (lambda c: flip_a_bit(c / MODEL_FILE), r"model\.safetensors: damaged or exchanged, its SHA-256"),
    "no weights": (lambda c: (c / MODEL_FILE).unlink(), r"model\.safetensors: missing; copy"),
    "no tokenizer": (lambda c: (c / "tokenizer.model").unlink(), r"tokenizer\.model: missing; copy"),
    "another tokenizer": (lambda c: learn(36).save(c), r"tokenizer\.model: damaged or exchanged"),
    "other vocabulary": (exchange_vocabulary, "the source tokenizer has 36 pieces, the model was trained with 40"),
    "no config": (lambda c: (c / CONFIG_FILE).unlink(), r"config\.yaml: missing; copy"),
    "no metadata": (lambda c: (c / METADATA_FILE).unlink(), r"is no checkpoint, metadata\.json is missing"),
    "torn metadata": (lambda c: truncate(c / METADATA_FILE), r"metadata\.json: damaged, not JSON"),
    "wrong metadata": (lambda c: damage_metadata(c, lambda m: m.update(step="x")), r"metadata\.json: damaged at step"),
    "not ours": (lambda c: (c / METADATA_FILE).write_text("[]"), r"metadata\.json: damaged, it names no format"),
    "other format": (
        lambda c: damage_metadata(c, lambda m: m.update(format=999, anything="new")),
        r"format 999, but nmt .* reads format 1; use the version that wrote it \(nmt \d",
    ),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_one_clear_line(saved: Path, name: str) -> None:
    damage, message = DAMAGES[name]
    damage(saved)
    with pytest.raises(CheckpointError, match=message) as caught:
        checkpoint.load_model_files(saved)
    lines = 2 if name == "other vocabulary" else 1  # one for each side
    assert len(caught.value.problems) == lines
    assert all(line.startswith(str(saved)) for line in caught.value.problems)


def test_all_that_is_wrong_is_said_at_once(saved: Path) -> None:
    truncate(saved / MODEL_FILE)
    (saved / "tokenizer.model").unlink()
    with pytest.raises(CheckpointError) as caught:
        checkpoint.load_model_files(saved)
    assert len(caught.value.problems) == 2


@pytest.mark.parametrize("damage", [truncate, flip_a_bit])
def test_a_damaged_training_state_is_one_clear_line(saved: Path, damage: Callable[[Path], None]) -> None:
    damage(saved / TRAINING_FILE)
    checkpoint.load_model_files(saved)
    with pytest.raises(CheckpointError, match=r"training\.pt: damaged .* remove .* to continue from the one|remove"):
        checkpoint.load_training_state(saved)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes")
@pytest.mark.parametrize("name", [METADATA_FILE, CONFIG_FILE])
def test_a_pipe_in_a_checkpoint_is_refused_and_not_waited_for(saved: Path, name: str) -> None:
    # As in a checkpoint of an earlier version, which has no checksum of the config.
    damage_metadata(saved, lambda content: content["files"].pop(CONFIG_FILE))
    (saved / name).unlink()
    os.mkfifo(saved / name)
    with pytest.raises(CheckpointError, match=f"{name}: cannot be read: is a pipe or a device, not a file"):
        (read_config_text if name == CONFIG_FILE else checkpoint.load_model_files)(saved)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes")
def test_a_pipe_for_a_pointer_is_refused_and_not_waited_for(saved: Path, run: RunFolder) -> None:
    (run.path / "checkpoints" / "best").unlink()
    os.mkfifo(run.path / "checkpoints" / "best")
    with pytest.raises(OSError, match="is a pipe or a device, not a file"):
        run.pointed("best")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes")
@pytest.mark.parametrize("name", ["train.log", "metrics.jsonl"])
def test_a_pipe_for_a_log_is_refused_and_not_waited_for(tmp_path: Path, run: RunFolder, name: str) -> None:
    run.close()
    (run.path / name).unlink(missing_ok=True)
    os.mkfifo(run.path / name)
    with pytest.raises(ConfigError, match=r"^run: .* is a pipe or a device, not a file"):
        start(run.path)


def test_an_edited_config_is_damage_but_earlier_versions_kept_no_checksum_of_it(saved: Path, run: RunFolder) -> None:
    text = (saved / CONFIG_FILE).read_text()
    (saved / CONFIG_FILE).write_text(text.replace("beam_size: 5", "beam_size: 1"))
    message = r"config\.yaml: damaged or exchanged, its SHA-256 .*; to change a setting, give it as a flag"
    for read in (lambda: checkpoint.load_model_files(saved), lambda: start(run.path)):
        with pytest.raises(CheckpointError, match=message):
            read()
    damage_metadata(saved, lambda content: content["files"].pop(CONFIG_FILE))
    assert "beam_size: 1" in read_config_text(saved)
    assert start(run.path)[1] == saved


def exchange(file: Path, content: bytes | None) -> None:
    """Puts other content into a file of a checkpoint, or a folder in its place; metadata.json says that it is right."""
    file.unlink()
    if content is None:
        file.mkdir()
        return
    file.write_bytes(content)
    now = describe(file).model_dump()
    damage_metadata(file.parent, lambda metadata: metadata["files"].update({file.name: now}))


@pytest.mark.parametrize("name", [MODEL_FILE, CONFIG_FILE, METADATA_FILE, "tokenizer.model"])
def test_a_folder_where_a_file_is_expected_is_one_line(saved: Path, name: str) -> None:
    exchange(saved / name, None)
    with pytest.raises(CheckpointError) as caught:
        checkpoint.load_model_files(saved)
    (problem,) = caught.value.problems
    assert problem.startswith(f"{saved / name}: ")
    assert "is no file; copy" in problem or problem.endswith("cannot be read: Is a directory")


def test_bytes_that_are_no_utf8_are_one_line(saved: Path, run: RunFolder, messages: Callable[[], str]) -> None:
    pointers = run.path / "checkpoints"
    for which in ("best", "last"):
        (pointers / which).write_bytes(b"step\xff\n")
    assert checkpoint.find(run.path) == saved
    assert "best names no checkpoint that is there; this is the newest one, step-00000007" in messages()
    assert start(run.path)[1] == saved
    assert run.pointed("last") == saved
    exchange(saved / CONFIG_FILE, b"run: x\nseed: \xff\n")
    for read in (lambda: read_config_text(saved), lambda: start(run.path)):
        with pytest.raises(CheckpointError, match=r"config\.yaml:2: damaged, not UTF-8; copy the checkpoint again$"):
            read()
    for content in (b"{\xff}", b"[" * 100_000, b"9" * 10_000):
        (saved / METADATA_FILE).write_bytes(content)
        with pytest.raises(CheckpointError, match=r"metadata\.json: damaged, (not JSON|it names no format)"):
            checkpoint.load_model_files(saved)


@pytest.mark.parametrize("content", [b"", b"garbage", b"PK\x03\x04", pickle.dumps([]), pickle.dumps(print)])
def test_a_training_state_that_is_none_is_one_line(saved: Path, content: bytes) -> None:
    exchange(saved / TRAINING_FILE, content)
    with pytest.raises(CheckpointError) as caught:
        checkpoint.load_training_state(saved)
    assert caught.value.problems[0].startswith(f"{saved / TRAINING_FILE}: ")
    assert len(caught.value.problems) == 1


def test_a_name_that_no_file_can_have_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"n: cannot be read: File name too long$"):
        checkpoint.find(tmp_path / ("n" * 300))
    with pytest.raises(ConfigError, match=r"^run: .*: File name too long$"):
        start(tmp_path / ("n" * 300))
    with pytest.raises(ConfigError, match=r"^run: .* has a NUL character in it"):
        start(tmp_path / "a\0b")


# In a process of its own, whose permissions bind it.
UNREADABLE = """
import os, sys
from pathlib import Path
from nmt import checkpoint
from nmt.cli.common import user_problems
from tests.test_checkpoint import snapshot, start

def refused(path, mode, act):
    before = path.stat().st_mode
    path.chmod(mode)
    try:
        act()
        print("taken", path)
    except Exception as error:
        problems = user_problems(error)
        print(*(problems or [repr(error)]), sep="\\n")
    path.chmod(before)

run = Path(sys.argv[1])
saved = run / "checkpoints" / "step-00000007"
for name in ("metadata.json", "config.yaml", "model.safetensors", "tokenizer.model"):
    refused(saved / name, 0, lambda: checkpoint.load_model_files(saved))
refused(saved / "training.pt", 0, lambda: checkpoint.load_training_state(saved))
for path in (saved, run / "checkpoints" / "best", run / "checkpoints", run):
    refused(path, 0, lambda: checkpoint.load_model_files(checkpoint.find(run)))
for path in (run, run / "checkpoints" / "last"):
    refused(path, 0, lambda: start(run))
refused(run / "checkpoints", 0o500, lambda: checkpoint.write_checkpoint(run / "checkpoints" / "x", snapshot(1)))
refused(run.parent, 0o500, lambda: start(run.parent / "new"))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="takes capabilities from root")
def test_permissions_are_one_line_that_names_the_file(saved: Path, run: RunFolder) -> None:
    run.close()
    command = [sys.executable, "-c", UNREADABLE, str(run.path)]
    done = subprocess.run(
        command, capture_output=True, text=True, env=ELSEWHERE, timeout=120, preexec_fn=give_up_reading_everything
    )
    assert done.returncode == 0, done.stderr
    path = run.path
    checkpoints = path / "checkpoints"
    denied = "Permission denied"
    assert done.stdout.splitlines() == [
        *(
            f"{saved / name}: cannot be read: {denied}"
            for name in (METADATA_FILE, CONFIG_FILE, MODEL_FILE, "tokenizer.model", TRAINING_FILE)
        ),
        f"{saved / METADATA_FILE}: cannot be read: {denied}",
        f"{checkpoints / 'best'}: cannot be read: {denied}",
        f"{checkpoints}: cannot be read: {denied}",
        f"{path / METADATA_FILE}: cannot be read: {denied}",
        f"run: {path} cannot be used: {path}: {denied}",
        f"run: {path} cannot be used: {checkpoints / 'last'}: {denied}",
        f"{checkpoints / 'x'}: cannot be written: {denied}",
        f"run: {path.parent / 'new'} cannot be used: {path.parent / 'new'}: {denied}",
    ]


class Small(nn.Module):
    def __init__(self, vocabulary: int, other: bool = False) -> None:
        super().__init__()
        self.embedding = nn.Parameter(torch.zeros(vocabulary, 2))
        if not other:
            self.bias = nn.Parameter(torch.zeros(40))
        else:
            self.scale = nn.Parameter(torch.zeros(1))


def test_weights_go_into_a_model_that_they_fit(saved: Path) -> None:
    loaded = checkpoint.load_model_files(saved)
    model = Small(40)
    loaded.load_into(model)
    assert torch.equal(model.embedding, torch.full((40, 2), 7.0))
    with pytest.raises(CheckpointError, match=r"embedding has the shape \(40, 2\), .* ask for \(36, 2\)"):
        loaded.load_into(Small(36))
    with pytest.raises(CheckpointError) as caught:
        loaded.load_into(Small(40, other=True))
    assert [line.split(": ", 1)[1] for line in caught.value.problems] == [
        "the weights scale are missing",
        "the model has no weights bias",
    ]


@pytest.mark.parametrize("kind", [torch.int64, torch.bool, torch.complex64])
def test_weights_that_are_no_floating_point_numbers_are_refused(tmp_path: Path, kind: torch.dtype) -> None:
    weights = {"embedding": torch.ones(40, 2).to(kind), "bias": torch.ones(40, dtype=torch.float64)}
    checkpoint.write_checkpoint(tmp_path / "c", snapshot(1, model=weights))
    model = Small(40)
    with pytest.raises(CheckpointError, match=rf"embedding holds {kind}, not floating-point numbers; use a"):
        checkpoint.load_model_files(tmp_path / "c").load_into(model)
    assert model.bias.tolist() == [0.0] * 40


def test_a_tied_parameter_has_one_name_in_the_file(tmp_path: Path) -> None:
    model, other = Small(40), Small(40)
    for tied in (model, other):
        tied.output = tied.embedding
    model.embedding.data.fill_(3.0)
    weights = dict(model.named_parameters())
    checkpoint.write_checkpoint(tmp_path / "c", snapshot(1, model=weights))
    loaded = checkpoint.load_model_files(tmp_path / "c")
    assert loaded.tensors.keys() == {"embedding", "bias"}
    loaded.load_into(other)
    assert other.output is other.embedding
    assert torch.equal(other.output, torch.full((40, 2), 3.0))


# Averaging


def test_an_average_is_the_mean(tmp_path: Path) -> None:
    rows = [[0.1, 1.0], [0.2, 1.0], [0.6, 4.0]]
    for number, row in enumerate(rows):
        model = {"w": torch.tensor(row), "count": torch.tensor(3)}
        checkpoint.write_checkpoint(tmp_path / str(number), snapshot(number, model=model))
    mean = checkpoint.average([tmp_path / str(number) for number in range(3)])
    assert mean["w"].dtype is torch.float32
    assert torch.equal(mean["w"], torch.tensor([0.3, 2.0]))  # (0.1 + 0.2 + 0.6) / 3, (1 + 1 + 4) / 3
    assert mean["count"].item() == 3
    assert torch.equal(checkpoint.average([tmp_path / "0"])["w"], torch.tensor(rows[0]))


def test_an_average_adds_up_in_float64(tmp_path: Path) -> None:
    # In float32, 1 + 2^-24 is 1 however often it is added: the mean of these five would be 0.2.
    values = [1.0, *[2.0**-24] * 4]
    for number, value in enumerate(values):
        checkpoint.write_checkpoint(tmp_path / str(number), snapshot(1, model={"w": torch.tensor([value])}))
    mean = checkpoint.average([tmp_path / str(number) for number in range(5)])
    assert mean["w"].item() == torch.tensor((1.0 + 2.0**-22) / 5, dtype=torch.float32).item()
    assert mean["w"].item() != torch.tensor(0.2).item()


def test_what_cannot_be_averaged_is_said(tmp_path: Path) -> None:
    one = torch.ones(1)
    models: list[dict[str, Tensor]] = [{"a": one}, {"a": torch.ones(2)}, {"b": one.clone()}]
    for number, model in enumerate(models):
        checkpoint.write_checkpoint(tmp_path / str(number), snapshot(1, model=model))
    checkpoint.write_checkpoint(tmp_path / "other", snapshot(1, model={"a": one}, tokenizers=learn(36)))
    with pytest.raises(CheckpointError, match=r"1: a is torch.float32 \(2,\), in .*0 it is torch.float32 \(1,\)"):
        checkpoint.average([tmp_path / "0", tmp_path / "1"])
    with pytest.raises(CheckpointError) as caught:
        checkpoint.average([tmp_path / "0", tmp_path / "2"])
    assert len(caught.value.problems) == 2
    with pytest.raises(CheckpointError, match="another vocabulary"):
        checkpoint.average([tmp_path / "0", tmp_path / "other"])
    with pytest.raises(CheckpointError, match="no checkpoint to average"):
        checkpoint.average([])


# The run's folder


def names(folders: Sequence[Path]) -> list[str]:
    return [folder.name for folder in folders]


def test_best_last_and_the_last_k_are_kept(run: RunFolder) -> None:
    for step in (10, 20, 30, 40, 50):
        run.save(snapshot(step), is_best=step == 10)
    assert names(run.checkpoints()) == ["step-00000010", "step-00000040", "step-00000050"]
    assert (run.path / "checkpoints" / "best").read_text() == "step-00000010\n"
    assert (run.path / "checkpoints" / "last").read_text() == "step-00000050\n"
    with_state = [folder for folder in run.checkpoints() if (folder / TRAINING_FILE).exists()]
    assert names(with_state) == ["step-00000040", "step-00000050"]
    assert not list(run.path.rglob(".tmp-*"))


def test_a_step_that_is_saved_again_replaces_nothing_before_it_is_whole(run: RunFolder) -> None:
    first = run.save(snapshot(10), is_best=False)
    second = run.save(snapshot(10, metrics={"bleu": 31.0}), is_best=True)
    assert first != second
    assert run.pointed("last") == run.pointed("best") == second
    assert names(run.checkpoints()) == ["step-00000010-1"]


def test_the_same_command_again_resumes(run: RunFolder) -> None:
    run.save(snapshot(10), is_best=True)
    newest = run.save(snapshot(20), is_best=False)
    _, resumed = start(run.path, "training.max_steps=100")
    assert resumed == newest
    text = run.config_file.read_text()
    assert parse_config(text, "run", COMPONENTS).training.max_steps == 100


def test_a_config_that_cannot_be_resumed_is_refused_with_its_keys(run: RunFolder) -> None:
    run.save(snapshot(10), is_best=True)
    before = run.config_file.read_text()
    with pytest.raises(ConfigError) as caught:
        start(run.path, "model.encoder.hidden_size=8", "training.optimizer=sgd", "training.log_every=5")
    assert len(caught.value.problems) == 3
    assert caught.value.problems[0].startswith("model.encoder.hidden_size: the run was started with 256, now it is 8")
    assert caught.value.problems[1].startswith("training.optimizer")
    assert "--fresh" in caught.value.problems[2]
    assert run.config_file.read_text() == before


@pytest.mark.parametrize(
    "override",
    [
        "run=runs/y",
        "data.test.flickr={source: a, target: b}",
        "data.cache=/tmp/cache",
        "data.workers=3",
        "training.max_epochs=99",
        "training.keep_last=9",
        "training.early_stopping.patience=4",
        "validation.sentences=10",
        "search.beam_size=9",
        "runtime.threads=1",
        "runtime.precision=fp32",
    ],
)
def test_what_may_change_between_two_starts(override: str) -> None:
    assert checkpoint.resume_conflicts(configure(), configure(override)) == []


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("seed=2", "seed"),
        ("data.train={source: other.de, target: other.en}", "data.train.0.source"),
        ("data.filters.max_length=7", "data.filters.max_length"),
        ("data.augmentation.upper_case=0.1", "data.augmentation.upper_case"),
        ("tokenizer.sampling=0.1", "tokenizer.sampling"),
        ("model.decoder.cell=lstm", "model.decoder.cell.kind"),
        ("training.batch_tokens=1", "training.batch_tokens"),
        ("training.early_stopping.metric=loss", "training.early_stopping.metric"),
    ],
)
def test_what_may_not_change(override: str, key: str) -> None:
    conflicts = checkpoint.resume_conflicts(configure(), configure(override))
    assert conflicts[0].startswith(key + ": ")


def test_every_changeable_key_is_in_the_schema() -> None:
    for key in checkpoint.CHANGEABLE:
        value: Any = configure()
        for name in key.split("."):
            value = getattr(value, name)


def test_fresh_loses_nothing_and_says_what_it_leaves(run: RunFolder, messages: Callable[[], str]) -> None:
    for number in (1, 2):
        run.save(snapshot(10 * number), is_best=True)
        (run.cache).mkdir(exist_ok=True)
        (run.cache / "encoded").write_text("kept")
        (run.path / "metrics.jsonl").write_text(f"{number}\n")
        again, resumed = start(run.path, "model.encoder.hidden_size=8", fresh=True)
        assert resumed is None
        assert again.checkpoints() == []
        left = run.path.with_name(f"x.previous-{number}")
        assert checkpoint.load_model_files(checkpoint.find(left)).metadata.step == 10 * number
        assert (left / "metrics.jsonl").read_text() == f"{number}\n"
        assert not (run.path / "metrics.jsonl").exists()
        assert (run.cache / "encoded").read_text() == "kept"
        text = messages()
        assert f"(1 checkpoints, the last one step-000000{number}0) is now {left}" in text


def test_fresh_without_an_earlier_run_is_a_new_run(tmp_path: Path) -> None:
    _, resumed = start(tmp_path / "new", fresh=True)
    assert resumed is None
    assert names(sorted(tmp_path.iterdir())) == ["new"]


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    for fresh in (False, True):
        with pytest.raises(ConfigError, match=r"^run: .* is no folder of a run, it holds thesis\.tex"):
            start(tmp_path, fresh=fresh)
    with pytest.raises(ConfigError, match=r"^run: .* is a file"):
        start(tmp_path / "thesis.tex")
    assert names(list(tmp_path.iterdir())) == ["thesis.tex"]


@pytest.mark.parametrize("fresh", [False, True])
def test_a_folder_with_a_config_of_the_users_own_is_left_alone(tmp_path: Path, fresh: bool) -> None:
    project = tmp_path / "project"
    project.mkdir()
    (project / "config.yaml").write_text("written: by hand\n")
    with pytest.raises(ConfigError, match=r"no folder of a run, it holds config\.yaml; name a new folder"):
        start(project, fresh=fresh)
    assert names(list(tmp_path.iterdir())) == ["project"]
    assert names(list(project.iterdir())) == ["config.yaml"]
    assert (project / "config.yaml").read_text() == "written: by hand\n"


@pytest.mark.parametrize("fresh", [False, True])
@pytest.mark.parametrize("left", [(), (".lock", ".tmp-.nmt-run")])
def test_a_start_that_was_killed_can_be_repeated(tmp_path: Path, left: tuple[str, ...], fresh: bool) -> None:
    path = tmp_path / "run"
    path.mkdir()
    for name in left:
        (path / name).touch()
    again, resumed = start(path, fresh=fresh)
    assert resumed is None
    assert names(sorted(path.iterdir())) == [".lock", ".nmt-run", "checkpoints", "config.yaml"]
    again.close()


def test_a_run_killed_before_its_first_checkpoint_starts_again(run: RunFolder, messages: Callable[[], str]) -> None:
    run.log_file.write_text("so far\n")
    _, resumed = start(run.path, "seed=9")
    assert resumed is None
    assert "holds no checkpoint yet" in messages()
    assert run.log_file.read_text() == "so far\n"


def test_training_cannot_go_on_without_its_state(run: RunFolder) -> None:
    folder = run.save(snapshot(10), is_best=True)
    (folder / TRAINING_FILE).unlink()
    with pytest.raises(CheckpointError, match=r"training cannot go on from here, training\.pt has been removed"):
        start(run.path)


def test_leftovers_of_a_kill_are_cleaned_up(run: RunFolder) -> None:
    folder = run.save(snapshot(10), is_best=True)
    (run.path / "checkpoints" / ".tmp-step-00000020").mkdir()
    (run.path / "checkpoints" / ".tmp-last").write_text("torn")
    (run.path / ".tmp-config.yaml").write_text("torn")
    _, resumed = start(run.path)
    assert resumed == folder
    assert not list(run.path.rglob(".tmp-*"))


def test_a_kill_before_the_pointers_is_made_good(run: RunFolder) -> None:
    run.save(snapshot(10), is_best=True)
    checkpoint.write_checkpoint(run.path / "checkpoints" / "step-00000020", snapshot(20), best=True)
    assert checkpoint.find(run.path).name == "step-00000010"
    _, resumed = start(run.path)
    assert resumed is not None
    assert resumed.name == "step-00000020"
    assert run.pointed("best") == run.pointed("last") == resumed


def test_a_pointer_to_a_folder_that_is_gone(run: RunFolder, messages: Callable[[], str]) -> None:
    older = run.save(snapshot(10), is_best=False)
    newer = run.save(snapshot(20), is_best=True)
    newer.rename(run.path / "elsewhere")
    assert checkpoint.find(run.path) == older
    assert "best names no checkpoint that is there" in messages()
    _, resumed = start(run.path)
    assert resumed == older
    assert "last names step-00000020, which is gone" in messages()
    assert run.pointed("last") == older


ELSEWHERE = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
"""Environment of processes that import the package and this module."""

SECOND_PROCESS = """
import sys
from pathlib import Path
from tests.test_checkpoint import start
from nmt.errors import ConfigError
try:
    start(Path(sys.argv[1]))
except ConfigError as error:
    print(error)
"""


def take(run: RunFolder, *overrides: str) -> None:
    """Open a run, and keep it open."""
    run.open(configure("training.keep_last=2", *overrides), fresh=False, read_config=read_config)


def test_a_second_training_process_is_kept_out(run: RunFolder) -> None:
    def second() -> str:
        arguments = [sys.executable, "-c", SECOND_PROCESS, str(run.path)]
        return subprocess.run(arguments, capture_output=True, text=True, check=True, env=ELSEWHERE, timeout=120).stdout

    take(run)
    assert second() == f"run: another process is training in {run.path}; name another folder\n"
    # A process that the training has started and left behind does not hold the folder.
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, close_fds=False) as left:
        run.close()
        assert second() == ""
        left.communicate()


def test_a_start_that_fails_does_not_keep_the_next_one_out(run: RunFolder) -> None:
    run.save(snapshot(10), is_best=True)
    with pytest.raises(ConfigError) as caught:
        take(run, "model.encoder.hidden_size=8")
    start(run.path)
    assert caught.value.problems[0].startswith("model.encoder.hidden_size")


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS])
def test_a_file_system_without_locks_gives_a_warning(
    run: RunFolder, number: int, messages: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fcntl = pytest.importorskip("fcntl")

    def refuse(*arguments: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    take(run)
    assert f"{run.path / '.lock'} cannot be locked ({os.strerror(number)}): only one process may use" in messages()


# Finding a checkpoint


def test_find_takes_a_run_a_checkpoint_or_a_pointer(run: RunFolder) -> None:
    best = run.save(snapshot(10), is_best=True)
    last = run.save(snapshot(20), is_best=False)
    pointers = run.path / "checkpoints"
    assert checkpoint.find(run.path) == best
    assert checkpoint.find(str(run.path), "best") == best
    assert checkpoint.find(run.path, "last") == last
    assert checkpoint.find(pointers) == best
    assert checkpoint.find(pointers / "last") == last
    assert checkpoint.find(pointers / "best") == best
    assert checkpoint.find(last) == last


def test_find_takes_the_last_where_none_is_best(run: RunFolder) -> None:
    run.save(snapshot(10), is_best=False)
    last = run.save(snapshot(20), is_best=False)
    assert checkpoint.find(run.path) == last


def test_find_names_the_nearest_runs(run: RunFolder, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="this run has no checkpoint yet"):
        checkpoint.find(run.path)
    start(tmp_path / "runs" / "multi30k")[0].close()
    with pytest.raises(CheckpointError, match=rf"no such checkpoint; runs that are there: {tmp_path}/runs/multi30k$"):
        checkpoint.find(tmp_path / "runs" / "multi3k")
    with pytest.raises(CheckpointError, match="neither a run nor a checkpoint"):
        checkpoint.find(tmp_path)


# Kills


def is_best(step: int) -> bool:
    return step % 2 == 0


def train_until_killed(path: Path, told: int) -> None:
    """Resume and save checkpoint after checkpoint, telling the step of each that has been saved."""
    run, resumed = start(path)
    step = 0
    if resumed is not None:
        state = checkpoint.load_training_state(resumed)
        assert state is not None
        step = state["step"]
    while True:
        step += 1
        run.save(snapshot(step), is_best=is_best(step))
        os.write(told, step.to_bytes(4, "big"))


def fork(work: Callable[[int], object]) -> tuple[int, int]:
    """A child that does the work; its process id, and a pipe from it."""
    readable, writable = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(readable)
        try:
            work(writable)
        finally:
            os._exit(1)
    os.close(writable)
    return child, readable


def last_told(pipe: int) -> int:
    with os.fdopen(pipe, "rb") as stream:
        told = stream.read()
    return int.from_bytes(told[-4:], "big") if told else 0


def assert_whole(path: Path, least: int) -> int:
    """Everything readable and consistent, as it lies there and after the next start; the step that it is at."""
    for folder in RunFolder(path).checkpoints():
        loaded = checkpoint.load_model_files(folder)
        assert set(loaded.tensors["embedding"].flatten().tolist()) == {float(loaded.metadata.step)}
        checkpoint.load_training_state(folder)
    if RunFolder(path).checkpoints():
        checkpoint.find(path, "last")
    run, resumed = start(path)
    run.close()
    assert not list(path.rglob(".tmp-*"))
    if resumed is None:
        assert least == 0
        return 0
    state = checkpoint.load_training_state(resumed)
    assert state is not None
    assert state["step"] == checkpoint.load_model_files(resumed).metadata.step >= least
    assert run.pointed("last") == resumed
    best = run.pointed("best")
    expected_best = state["step"] // 2 * 2
    assert (best is None and expected_best == 0) or (best is not None and int(best.name[5:13]) == expected_best)
    return int(state["step"])


def kill_at_random_moments(path: Path) -> None:
    seed = random.SystemRandom().randrange(2**32)
    print("seed", seed, flush=True)
    generator = random.Random(seed)
    step = torn = 0
    for _ in range(20):
        child, pipe = fork(lambda told: train_until_killed(path, told))
        select.select([pipe], [], [], 60.0)  # the first checkpoint has been saved
        time.sleep(generator.uniform(0.0, 0.25))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        told = last_told(pipe)
        assert told > step, (told, step)
        torn += bool(list(path.rglob(".tmp-*")))
        step = assert_whole(path, told)
    print(f"{step} checkpoints, {torn} of 20 kills left something half written")


def kill_at_every_operation(path: Path) -> None:
    """Die before the n-th opening, renaming or removing of a file, for every n of a start and a save.

    The save is the best one, removes a checkpoint, and takes the training state of another.
    """
    before = path / "before"
    run, _ = start(before, "training.keep_last=3")
    for step in (1, 2, 3):
        run.save(snapshot(step, config=configure("training.keep_last=3")), is_best=is_best(step))
    run.close()
    done, number = False, 0
    while not done:
        number += 1
        here = path / str(number)
        shutil.copytree(before, here)

        def work(told: int, here: Path = here, number: int = number) -> None:
            left = number

            def hook(event: str, arguments: tuple[object, ...]) -> None:
                nonlocal left
                if event in ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir"):
                    left -= 1
                    if left == 0:
                        os.kill(os.getpid(), signal.SIGKILL)

            sys.addaudithook(hook)
            run, _ = start(here, "training.keep_last=3")
            run.save(snapshot(4, config=configure("training.keep_last=3")), is_best=is_best(4))
            os.write(told, (4).to_bytes(4, "big"))
            assert names(run.checkpoints()) == ["step-00000002", "step-00000003", "step-00000004"]
            assert not (run.checkpoints()[0] / TRAINING_FILE).exists()
            os._exit(0)

        child, pipe = fork(work)
        _, status = os.waitpid(child, 0)
        done = os.WIFEXITED(status)
        assert os.WEXITSTATUS(status) == 0 if done else os.WTERMSIG(status) == signal.SIGKILL
        assert_whole(here, max(last_told(pipe), 3))
    print(f"killed before each of {number - 1} operations")
    assert number > 30


@pytest.mark.slow
@pytest.mark.parametrize("kills", ["kill_at_random_moments", "kill_at_every_operation"])
def test_kills_leave_every_checkpoint_whole(tmp_path: Path, kills: str) -> None:
    # In a process of its own, which has one thread and may fork; starting one anew for every kill would take minutes.
    arguments = [sys.executable, __file__, kills, str(tmp_path / "run")]
    done = subprocess.run(arguments, capture_output=True, text=True, env=ELSEWHERE, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_dump_of_a_config_is_what_is_saved(saved: Path) -> None:
    assert (saved / CONFIG_FILE).read_text() == dump_config(configure("training.keep_last=2"))


if __name__ == "__main__":
    torch.set_num_threads(1)
    learn(40)
    globals()[sys.argv[1]](Path(sys.argv[2]))
