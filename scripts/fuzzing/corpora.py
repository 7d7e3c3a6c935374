"""Corpora: sentences, documents and labels in every format that can be read, with hostile content and damage."""

from __future__ import annotations

import io
import json
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import yaml
from hypothesis import strategies as st

from scripts.fuzzing import values
from scripts.fuzzing.case import Case, Command, Folder, Link, Pipe
from scripts.fuzzing.small import CLASSIFIER, CORPUS, TRANSLATOR
from scripts.fuzzing.streams import expects_lines

Row = tuple[bytes, bytes, bytes, bytes]
"""Source, target, alignment and document; or text, label and two more columns."""
Contents = dict[str, "bytes | Folder | Link | Pipe"]

ARROW_TYPES: Mapping[str, pa.DataType] = {
    "string": pa.string(),
    "large_string": pa.large_string(),
    "binary": pa.binary(),
    "dictionary": pa.dictionary(pa.int32(), pa.string()),
    "int64": pa.int64(),
    "list": pa.list_(pa.string()),
    "struct": pa.struct([("de", pa.string())]),
    "null": pa.null(),
}


@dataclass(frozen=True)
class Shape:
    """How a corpus is written."""

    format: str
    compression: str
    arrow_type: str
    alignments: bool
    documents: bool
    ends: bytes
    """Between lines."""
    final_end: bool
    nulls: bool


def strategy() -> st.SearchStrategy[Case]:
    """Cases of corpora."""
    shapes = st.builds(
        Shape,
        format=st.sampled_from(
            ("text", "tsv", "jsonl", "parquet", "saved", "huggingface json", "huggingface csv", "tmx", "opus")
        ),
        compression=st.sampled_from(tuple(values.COMPRESSED)),
        arrow_type=st.sampled_from(("string", *ARROW_TYPES)),
        alignments=st.sampled_from((False, False, True)),
        documents=st.sampled_from((False, False, True)),
        ends=st.sampled_from((b"\n", b"\n", b"\n", b"\r\n", b"\r", b"\n\n")),
        final_end=st.booleans(),
        nulls=st.sampled_from((False, False, False, True)),
    )

    def rows(text: st.SearchStrategy[bytes]) -> st.SearchStrategy[list[Any]]:
        columns = st.sets(st.integers(0, 3), min_size=1)
        return st.lists(st.tuples(st.integers(0, 40), st.tuples(text, text, text, text), columns), max_size=5)

    settings = st.lists(
        st.sampled_from(
            (
                *("data.filters.broken_utf8=drop", "data.filters.empty=error", "tokenizer.byte_fallback=true"),
                *("tokenizer.kind=unigram", "tokenizer.shared=false", "tokenizer.vocabulary_size=300"),
                *("data.filters.copies=drop", "data.filters.garbled=drop", "data.filters.min_letters=0.3"),
                *("data.filters.max_word_length=3", "data.filters.max_length=3"),
                *("tokenizer.normalization=identity", "data.filters.duplicates=drop"),
                *(
                    "data.filters.max_sentence_length=3",
                    "training.guided_alignment.weight=0.1",
                    "training.batch_tokens=8",
                ),
                *("data.train.0.limit=1", "data.train.0.weight=0.01", "data.train.0.weight=50", "data.cache=cache"),
                *("model.context=hierarchical", "tokenizer.character_coverage=0.98", "tokenizer.sampling=0.1"),
            )
        ),
        max_size=2,
        unique=True,
    )
    return st.builds(
        _case,
        task=st.sampled_from(("translation", "translation", "classification")),
        part=st.sampled_from(("train", "train", "validation")),
        size=st.sampled_from((30, 30, 30, 30, 0, 1, 2)),
        shape=shapes,
        hostile=st.one_of(rows(values.valid_texts), rows(values.valid_texts), rows(values.hostile_texts)),
        damage=st.one_of(st.just([]), st.lists(st.tuples(st.integers(0, 5), values.damage), max_size=3)),
        special=st.one_of(
            *[st.none()] * 8,
            st.sampled_from(
                (
                    *(None, Folder(), Link("/dev/zero"), Link("/dev/null"), Link("missing"), Pipe()),
                    *(Link("/proc/self/mem"), Link(".")),
                )
            ),
        ),
        settings=settings,
        use=st.sampled_from((False, False, True)),
    )


def _case(
    task: str,
    part: str,
    size: int,
    shape: Shape,
    hostile: Sequence[tuple[int, tuple[bytes, bytes, bytes, bytes], set[int]]],
    damage: Sequence[tuple[int, values.Mutation]],
    special: Folder | Link | Pipe | None,
    settings: Sequence[str],
    use: bool,
) -> Case:
    classify = task == "classification"
    rows = _rows(classify, size)
    for position, texts, columns in hostile:
        row = rows[position % len(rows)] if rows else (b"a", b"b", b"0-0", b"d")
        rows.insert(position % (len(rows) + 1), tuple(texts[n] if n in columns else row[n] for n in range(4)))  # type: ignore[arg-type]
    options, files = (_labelled if classify else _parallel)(rows, shape)
    notes = [f"{part} of {task} as {shape.format}{shape.compression}", f"hostile rows: {len(hostile)}"]
    names = sorted(files)
    for number, (note, change) in damage:
        name = names[number % len(names)]
        content = files[name]
        assert isinstance(content, bytes)
        files[name] = change(content)
        notes.append(f"{name}: {note}")
    if special is not None:
        files[names[0]] = special
        notes.append(f"{names[0]}: {special}")
    tree = yaml.safe_load(CLASSIFIER if classify else TRANSLATOR)
    tree["data"][part] = options if part == "validation" else [options]
    if part == "validation" and (shape.alignments or shape.documents) and not classify:
        # Both corpora have documents, or none.
        tree["data"]["train"] = [tree["data"]["train"]]
    overrides = [argument for setting in settings for argument in ("--set", setting)]
    commands = [Command("train", ["--config", "config.yaml", *overrides, *([] if use else ["--check"])])]
    if use:
        program, given = ("classify", "valid.docs") if classify else ("translate", "valid.de")
        lines = CORPUS[given].count(b"\n")
        commands.append(Command(program, ["--model", "run"], given, check_output=expects_lines(lines)))
    content = yaml.safe_dump(tree, sort_keys=False).encode()
    return Case({**CORPUS, **files, "config.yaml": content}, commands, "; ".join([*notes, *settings]))


def _rows(classify: bool, size: int) -> list[Row]:
    names = ("train.docs", "train.labels") if classify else ("train.de", "train.en")
    sides = [CORPUS[name].splitlines()[:size] for name in names]
    return [
        (first, second, b"0-0 1-1", b"%d" % (number // 5))
        for number, (first, second) in enumerate(zip(*sides, strict=True))
    ]


def _parallel(rows: Sequence[Row], shape: Shape) -> tuple[dict[str, Any], Contents]:
    """Options of the corpus, and its files."""
    kind = {"saved": "huggingface"}.get(shape.format, shape.format.partition(" ")[0])
    sides = {"source": "de", "target": "en"}
    if shape.alignments:
        sides["alignments"] = "links"
    if shape.documents:
        sides["documents"] = "document"
    columns = ("de", "en", "links", "document")
    end = shape.compression
    if shape.format == "text":
        files: Contents = {f"x.{name}{end}": _lines(rows, index, shape) for index, name in enumerate(columns)}
        return {"kind": kind, **{key: f"x.{name}{end}" for key, name in sides.items()}}, files
    if shape.format == "tsv":
        named = {f"{key}_column": name for key, name in sides.items()}
        return {"kind": kind, "path": f"x.tsv{end}", **named}, {f"x.tsv{end}": _table(rows, shape, columns, b"\t")}
    if shape.format == "jsonl":
        return {"kind": kind, "path": f"x.jsonl{end}", **sides}, {f"x.jsonl{end}": _json(rows, shape, columns)}
    if shape.format == "parquet":
        return {"kind": kind, "path": "x.parquet", **sides}, {"x.parquet": _parquet(rows, shape, columns)}
    if shape.format == "saved":
        return {"kind": kind, "dataset": "x", **sides}, _saved(rows, shape, columns)
    if shape.format == "tmx":
        return {"kind": kind, "path": f"x.tmx{end}"}, {f"x.tmx{end}": _tmx(rows, shape)}
    if shape.format == "opus":
        return {"kind": kind, "path": "x.zip"}, {"x.zip": _zip(rows, shape)}
    suffix = shape.format.partition(" ")[2]
    content = _json(rows, shape, columns) if suffix == "json" else _table(rows, shape, columns, b",")
    return {"kind": kind, "dataset": suffix, "files": [f"x.{suffix}{end}"], **sides}, {f"x.{suffix}{end}": content}


def _labelled(rows: Sequence[Row], shape: Shape) -> tuple[dict[str, Any], Contents]:
    end, columns = shape.compression, ("text", "label")
    if shape.format in ("tsv", "huggingface csv"):
        return {"kind": "tsv", "path": f"x.tsv{end}"}, {f"x.tsv{end}": _table(rows, shape, columns, b"\t")}
    if shape.format in ("jsonl", "huggingface json", "parquet"):
        return {"kind": "jsonl", "path": f"x.jsonl{end}"}, {f"x.jsonl{end}": _json(rows, shape, columns)}
    names = (f"x.docs{end}", f"x.labels{end}")
    files: Contents = {name: _lines(rows, index, shape) for index, name in enumerate(names)}
    return {"kind": "text", "docs": names[0], "labels": names[1], "split": shape.documents}, files


def _joined(lines: Sequence[bytes], shape: Shape) -> bytes:
    text = shape.ends.join(lines) + (shape.ends if shape.final_end and lines else b"")
    return values.COMPRESSED[shape.compression](text)


def _lines(rows: Sequence[Row], index: int, shape: Shape) -> bytes:
    return _joined([row[index] for row in rows], shape)


def _table(rows: Sequence[Row], shape: Shape, columns: Sequence[str], separator: bytes) -> bytes:
    header = separator.join(name.encode() for name in columns)
    return _joined([header, *(separator.join(row[: len(columns)]) for row in rows)], shape)


def _tmx(rows: Sequence[Row], shape: Shape) -> bytes:
    """A translation memory; with `nulls` its text is not escaped."""

    def segment(code: str, text: bytes) -> bytes:
        if not shape.nulls:
            text = text.replace(b"&", b"&amp;").replace(b"<", b"&lt;")
        return b'<tuv xml:lang="%s"><seg>%s</seg></tuv>' % (code.encode(), text)

    units = (b"<tu>" + segment("de-DE", row[0]) + segment("en", row[1]) + b"</tu>" for row in rows)
    return _joined([b'<tmx version="1.4"><body>', *units, b"</body></tmx>"], shape)


def _zip(rows: Sequence[Row], shape: Shape) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for index, code in enumerate(("de", "en")):
            # The same time in every case.
            member = zipfile.ZipInfo(f"x.de-en.{code}")
            archive.writestr(member, _joined([row[index] for row in rows], replace(shape, compression="")))
    return file.getvalue()


def _json(rows: Sequence[Row], shape: Shape, columns: Sequence[str]) -> bytes:
    def objects() -> list[bytes]:
        found = []
        for number, row in enumerate(rows):
            values_: dict[str, Any] = {
                name: text.decode("utf-8", "surrogateescape") for name, text in zip(columns, row, strict=False)
            }
            if shape.nulls and number == len(rows) // 2:
                values_[columns[number % len(columns)]] = (None, 1.5, ["a"], {"b": 1}, True)[number % 5]
            found.append(json.dumps(values_, ensure_ascii=number % 2 == 0).encode("utf-8", "surrogateescape"))
        return found

    return _joined(objects(), shape)


def _arrow(rows: Sequence[Row], shape: Shape, columns: Sequence[str]) -> pa.Table:
    """A table whose first column has the type of the shape; its text need not be UTF-8."""
    arrays = []
    for index, _ in enumerate(columns):
        texts: list[bytes | None] = [row[index] for row in rows]
        if shape.nulls and texts:
            texts[len(texts) // 2] = None
        binary = pa.array(texts, pa.binary())
        nulls, ends, data = binary.buffers()
        text = pa.StringArray.from_buffers(len(binary), ends, data, nulls)
        arrays.append(_typed(binary, text, shape.arrow_type if index == 0 else "string"))
    return pa.table(arrays, names=list(columns))


def _typed(binary: pa.Array, text: pa.Array, name: str) -> pa.Array:
    match name:
        case "string":
            return text
        case "binary":
            return binary
        case "list" | "int64" | "null":
            return pa.array(
                [None if name == "null" else 1 if name == "int64" else ["a"]] * len(text), ARROW_TYPES[name]
            )
        case "struct":
            return pa.StructArray.from_arrays([text], ["de"])
        case "dictionary":
            return text.dictionary_encode()
        case _:
            return text.cast(ARROW_TYPES[name])


def _parquet(rows: Sequence[Row], shape: Shape, columns: Sequence[str]) -> bytes:
    sink = pa.BufferOutputStream()
    pa.parquet.write_table(_arrow(rows, shape, columns), sink, row_group_size=7)
    return bytes(sink.getvalue())


@cache
def _saved_descriptions() -> dict[str, str]:
    import datasets

    datasets.disable_progress_bars()

    with tempfile.TemporaryDirectory() as folder:
        datasets.Dataset.from_dict({"de": ["a"]}).save_to_disk(folder)
        return {path.name: path.read_text() for path in Path(folder).glob("*.json")}


def _saved(rows: Sequence[Row], shape: Shape, columns: Sequence[str]) -> Contents:
    table = _arrow(rows, shape, columns)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    descriptions = _saved_descriptions()
    info = json.loads(descriptions["dataset_info.json"])
    info["features"] = {name: {"dtype": "string", "_type": "Value"} for name in columns}
    return {
        "x/data-00000-of-00001.arrow": bytes(sink.getvalue()),
        "x/dataset_info.json": json.dumps(info).encode(),
        "x/state.json": descriptions["state.json"].encode(),
    }
