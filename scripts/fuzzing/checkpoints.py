"""Checkpoints: the files of small trained runs, damaged, exchanged and edited, with true and with stale checksums."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import yaml
from hypothesis import strategies as st

from scripts.fuzzing import values
from scripts.fuzzing.case import Case, Command, Folder, Link, Pipe, Workshop, read_files, write_files
from scripts.fuzzing.configs import keys, names
from scripts.fuzzing.server import Limits
from scripts.fuzzing.small import CLASSIFIER, CORPUS, TRANSLATOR
from scripts.fuzzing.streams import expects_lines

Files = dict[str, "bytes | Folder | Link | Pipe"]
STDIN = b"der hund .\n\nein kind spielt\n"
DOCUMENTS = b"der hund .\tein kind\n\nzwei frauen\n"
JSON_VALUES = (
    *("null", "true", "0", "-1", "1", "1.5", "1e999", "NaN", "99999999999999999999", '""', '"x"', "[]", "{}", "[null]"),
    *(
        '{"a": 1}',
        '"F32"',
        '"F16"',
        '"BF16"',
        '"I64"',
        '"F64"',
        '"../../x"',
        "[4]",
        "[8, 8]",
        "[0, 4611686018427387904]",
    ),
)
"""In place of a value of JSON."""
DTYPES = (torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.int8, torch.bool, torch.complex64)


@dataclass(frozen=True)
class Change:
    """Change of the files of a run."""

    note: str
    apply: Callable[[Files], None]


def trained(workshop: Workshop) -> dict[str, dict[str, bytes]]:
    """Train the translator and the classifier in a workshop: the files of their runs, by name."""
    runs = {}
    for name, text in (("translator", TRANSLATOR), ("classifier", CLASSIFIER)):
        folder = workshop.folder / f"trained-{name}"
        write_files(folder, {"config.yaml": text, **CORPUS})
        (folder / "tmp").mkdir()
        # The first command compiles kernels, which later ones find.
        patient = Limits(seconds=300, wall_seconds=600)
        for command in (
            ["train", "--config", "config.yaml"],
            *([["lexicon", "--model", "run"]] * (name == "translator")),
        ):
            ended = workshop.server.run(
                f"nmt.cli.{command[0]}", command[1:], folder, ("/dev/null", "stdout", "stderr"), patient
            )
            if ended.code != 0:
                raise RuntimeError(f"{command} failed ({ended}):\n{(folder / 'stderr').read_text()}")
        runs[name] = read_files(folder / "run")
    return runs


def strategy(runs: Mapping[str, Mapping[str, bytes]]) -> st.SearchStrategy[Case]:
    """Cases of checkpoints."""
    return st.sampled_from(sorted(runs)).flatmap(lambda name: _of_run(name, runs))


def _of_run(name: str, runs: Mapping[str, Mapping[str, bytes]]) -> st.SearchStrategy[Case]:
    files = runs[name]
    paths = [path for path in sorted(files) if not path.startswith(("tensorboard/", "cache/"))]
    cached = [path for path in sorted(files) if path.startswith("cache/")]
    checkpoints = sorted({path.split("/")[1] for path in paths if path.startswith("checkpoints/step-")})
    last = f"checkpoints/{checkpoints[-1]}"
    path = st.one_of(
        st.sampled_from([path for path in paths if path.startswith(last)]),
        st.sampled_from(paths),
        st.sampled_from(cached),
    )
    special = st.sampled_from(
        (None, Folder(), Pipe(), Link("."), Link("missing"), Link("/dev/zero"), Link("/dev/null"), Link("loop"))
    )
    yaml_values = st.one_of(
        st.sampled_from(values.NUMBERS), st.sampled_from(values.STRUCTURES), st.sampled_from(names())
    )
    change = st.one_of(
        st.builds(_damaged, path, values.damage),
        st.builds(_replaced, path, special),
        st.builds(_exchanged, path, path),
        st.builds(
            _in_json, st.sampled_from((f"{last}/metadata.json",)), st.integers(0, 80), st.sampled_from(JSON_VALUES)
        ),
        st.builds(_in_header, st.just(f"{last}/model.safetensors"), st.integers(0, 80), st.sampled_from(JSON_VALUES)),
        st.builds(_in_tensors, st.just(f"{last}/model.safetensors"), st.integers(0, 40), st.sampled_from(_TENSORS)),
        st.builds(_in_config, st.just(f"{last}/config.yaml"), st.sampled_from(keys()), yaml_values),
        st.builds(_pointer, st.sampled_from(("best", "last")), st.sampled_from(_POINTERS)),
    )
    programs = {
        "translator": (
            *("translate", "train", "train", "align", "evaluate", "average", "start", "lexicon", "shortlist"),
            "score",
        ),
        "classifier": ("classify", "train", "train", "evaluate", "average", "start"),
    }[name]
    return st.builds(
        # Not an argument: hypothesis writes arguments out.
        lambda changes, program, sums: _case(name, files, changes, program, sums),
        st.lists(change, min_size=1, max_size=3),
        st.sampled_from(programs),
        st.sampled_from(("true", "true", "true", "stale")),
    )


def _case(name: str, run: Mapping[str, bytes], changes: Sequence[Change], program: str, sums: str) -> Case:
    files: Files = dict(run)
    for change in changes:
        change.apply(files)
    if sums == "true":
        _sum_again(files, {path for path in files if files[path] is not run.get(path)})
    text = TRANSLATOR if name == "translator" else CLASSIFIER
    given: Files = {"config.yaml": text, **CORPUS, "stdin": STDIN if name == "translator" else DOCUMENTS}
    return Case(
        {**given, **{f"run/{path}": content for path, content in files.items()}},
        _commands(name, program),
        f"{name}, {sums} checksums: {'; '.join(change.note for change in changes)}",
    )


def _commands(name: str, program: str) -> list[Command]:
    model = ["--model", "run"]
    sides = ["--source", "valid.de", "--target", "valid.en"]
    train = Command("train", ["--config", "config.yaml", "--set", "training.max_steps=6"])
    match program:
        case "translate" | "classify":
            return [Command(program, model, "stdin", check_output=expects_lines(3))]
        case "shortlist":
            arguments = [*model, "--shortlist", "5", "--shortlist-frequent", "10"]
            return [Command("translate", arguments, "stdin", check_output=expects_lines(3))]
        case "align" | "score":
            return [Command(program, [*model, *sides], check_output=expects_lines(CORPUS["valid.de"].count(b"\n")))]
        case "evaluate" if name == "classifier":
            return [Command("evaluate", [*model, "--docs", "valid.docs", "--labels", "valid.labels"])]
        case "evaluate":
            return [Command("evaluate", [*model, "--source", "valid.de", "--reference", "valid.en"])]
        case "average":
            return [Command("average", ["run", "--last", "2", "--output", "mean"])]
        case "lexicon":
            return [Command("lexicon", model)]
        case "start":
            return [Command("train", [*train.arguments, "--set", "run=other", "--set", "training.start_from=run"])]
        case _:
            return [train]


def _sum_again(files: Files, changed: set[str]) -> None:
    """Write true sizes and SHA-256 of changed files into the metadata beside them."""
    for path in sorted(changed):
        folder, _, name = path.rpartition("/")
        metadata, content = files.get(f"{folder}/metadata.json"), files[path]
        if not isinstance(metadata, bytes) or not isinstance(content, bytes) or name == "metadata.json":
            continue
        try:
            tree = json.loads(metadata)
            if name in tree["files"]:
                tree["files"][name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
                files[f"{folder}/metadata.json"] = json.dumps(tree).encode()
        except (ValueError, TypeError, KeyError, RecursionError):
            continue


def _of_bytes(note: str, path: str, change: Callable[[bytes], bytes]) -> Change:
    """A change of one file, which may have been removed or replaced by one before."""

    def apply(files: Files) -> None:
        content = files.get(path)
        if isinstance(content, bytes):
            try:
                files[path] = change(content)
            # An earlier change can have left what cannot be taken apart.
            except Exception:
                return

    return Change(f"{path}: {note}", apply)


def _damaged(path: str, mutation: values.Mutation) -> Change:
    return _of_bytes(mutation[0], path, mutation[1])


def _replaced(path: str, special: Folder | Link | Pipe | None) -> Change:
    def apply(files: Files) -> None:
        files.pop(path, None)
        if special is not None:
            files[path] = special

    return Change(f"{path}: {special or 'removed'}", apply)


def _exchanged(path: str, other: str) -> Change:
    def apply(files: Files) -> None:
        if path in files and other in files:
            files[path], files[other] = files[other], files[path]

    return Change(f"{path} and {other} exchanged", apply)


def _in_json(path: str, number: int, new: str) -> Change:
    return _of_bytes(f"value {number} becomes {new}", path, lambda content: _json_changed(content, number, new))


def _in_header(path: str, number: int, new: str) -> Change:
    def change(content: bytes) -> bytes:
        size = struct.unpack("<Q", content[:8])[0]
        header = _json_changed(content[8 : 8 + size], number, new)
        return struct.pack("<Q", len(header)) + header + content[8 + size :]

    return _of_bytes(f"value {number} of the header becomes {new}", path, change)


def _json_changed(content: bytes, number: int, new: str) -> bytes:
    """The JSON text with its nth value (or the whole) replaced by other JSON text."""
    tree, mark = json.loads(content), "\ue000"
    places = list(_places(tree))
    node, key = places[number % len(places)]
    if number % 3 == 2 and isinstance(node, dict):
        node[mark + "name"] = node.pop(key)
    else:
        node[key] = mark
    return json.dumps(tree, ensure_ascii=False).replace(f'"{mark}"', new).replace(mark, "other").encode()


def _places(tree: Any) -> Any:
    for key, child in list(tree.items() if isinstance(tree, dict) else enumerate(tree)):
        yield tree, key
        if isinstance(child, (dict, list)):
            yield from _places(child)


def _tensor_nan(tensor: torch.Tensor) -> torch.Tensor:
    return torch.full_like(tensor, float("nan"))


def _tensor_partly(tensor: torch.Tensor) -> torch.Tensor:
    changed = tensor.clone()
    changed.view(-1)[:1] = float("inf")
    return changed


_TENSORS: tuple[tuple[str, Callable[[torch.Tensor], torch.Tensor | None]], ...] = (
    ("becomes nan", _tensor_nan),
    ("has one infinity", _tensor_partly),
    ("becomes huge", lambda tensor: torch.full_like(tensor, 3e38)),
    ("becomes zero", torch.zeros_like),
    ("is removed", lambda tensor: None),
    ("is transposed", lambda tensor: tensor.transpose(0, -1).contiguous()),
    ("gets a dimension", lambda tensor: tensor.unsqueeze(0)),
    ("loses a row", lambda tensor: tensor[1:].clone()),
    ("is one number", lambda tensor: tensor.view(-1)[0].clone()),
    *((f"becomes {dtype}", lambda tensor, dtype=dtype: tensor.to(dtype)) for dtype in DTYPES),
)


def _in_tensors(path: str, number: int, what: tuple[str, Callable[[torch.Tensor], torch.Tensor | None]]) -> Change:
    import safetensors.torch

    def change(content: bytes) -> bytes:
        tensors = safetensors.torch.load(content)
        name = sorted(tensors)[number % len(tensors)]
        new = what[1](tensors.pop(name))
        return safetensors.torch.save(tensors if new is None else {**tensors, name: new})

    return _of_bytes(f"tensor {number} {what[0]}", path, change)


def _in_config(path: str, key: tuple[str, ...], new: str) -> Change:
    def change(content: bytes) -> bytes:
        tree, value = yaml.safe_load(content), yaml.safe_load(new)
        node = tree
        for name in key[:-1]:
            node = node[int(name) if isinstance(node, list) else name]
        node[int(key[-1]) if isinstance(node, list) else key[-1]] = value
        return yaml.safe_dump(tree, sort_keys=False).encode()

    return _of_bytes(f"{'.'.join(key)} becomes {new[:60]}", path, change)


_POINTERS: tuple[bytes, ...] = (
    *(b"", b"\n", b"step-00000001\n", b"step-99999999999999999999999999\n", b"../..\n", b".\n", b"/\n", b"\xff\n"),
    *(
        b"step-00000002",
        b"step-00000004\nstep-00000002\n",
        b"\x00",
        b"x" * 100_000,
        "step-\u0664\n".encode(),
        b"best\n",
    ),
)


def _pointer(name: str, content: bytes) -> Change:
    return _of_bytes(f"becomes {content[:40]!r}", f"checkpoints/{name}", lambda _: content)
