"""Parquet files and Hugging Face data sets, on local ones."""

from __future__ import annotations

import json
import os
import pickle
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import datasets
import pyarrow as pa
import pytest
from pyarrow import parquet

import nmt
from nmt.config.registry import PartOptions
from nmt.config.schema import DataConfig
from nmt.data.readers.corpora import (
    Corpus,
    HuggingFacePairOptions,
    Pair,
    ParquetPairOptions,
    TextPairOptions,
    open_corpus,
)
from nmt.errors import DataError

ROWS = [(f"Satz {row}\u2028" if row % 2 else "", f"sentence {row}") for row in range(1, 10_001)]
PAIRS = [Pair(source, target, row) for row, (source, target) in enumerate(ROWS, start=1)]


def opened(options: PartOptions) -> Corpus:
    return open_corpus(options, data())


def data() -> DataConfig:
    anything = TextPairOptions(source="unused", target="unused")
    return DataConfig(source_language="de", target_language="en", train=[anything], validation=anything)


def problems(options: PartOptions) -> tuple[str, ...]:
    with pytest.raises(DataError) as caught:
        list(opened(options))
    return caught.value.problems


def columns(kind: pa.DataType) -> dict[str, pa.Array]:
    return {
        "de": pa.array([source for source, _ in ROWS], pa.string()).cast(kind),
        "en": pa.array([target for _, target in ROWS], pa.string()).cast(kind),
    }


@pytest.fixture(autouse=True)
def cache_in_tmp_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.binary(), pa.dictionary(pa.int32(), pa.string())])
def test_parquet_streams_row_groups(tmp_path: Path, kind: pa.DataType) -> None:
    path = str(tmp_path / "x.parquet")
    parquet.write_table(pa.table(columns(kind) | {"id": pa.array(range(len(ROWS)))}), path, row_group_size=1000)
    corpus = opened(ParquetPairOptions(path=path, source="de", target="en"))
    assert list(corpus) == PAIRS
    assert list(opened(ParquetPairOptions(path=path, source="en", target="en", limit=1))) == [
        Pair("sentence 1", "sentence 1", 1)
    ]


def test_parquet_struct_column(tmp_path: Path) -> None:
    path = str(tmp_path / "x.parquet")
    parquet.write_table(pa.table({"translation": pa.StructArray.from_arrays(**_struct())}), path, row_group_size=3000)
    assert list(opened(ParquetPairOptions(path=path, source="translation.de", target="translation.en"))) == PAIRS


def _struct() -> dict[str, list[object]]:
    arrays = columns(pa.string())
    return {"arrays": list(arrays.values()), "names": list(arrays)}


def test_parquet_mistakes(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    table = pa.table({"de": ["a", None], "en": ["A", "B"], "id": [1, 2], "raw": [b"a", b"\xff"]})
    parquet.write_table(table, path)
    assert problems(ParquetPairOptions(path=str(path), source="de", target="fr")) == (
        f"{path}: no column 'fr'; there are 'de', 'en', 'id', 'raw'",
    )
    assert problems(ParquetPairOptions(path=str(path), source="de", target="id")) == (
        f"{path}: column 'id' is int64, not text",
    )
    assert problems(ParquetPairOptions(path=str(path), source="de", target="en")) == (
        f"{path}:2: no value in column 'de'",
    )
    [problem] = problems(ParquetPairOptions(path=str(path), source="en", target="raw"))
    assert problem.startswith(f"{path}:2: not UTF-8")
    path.write_bytes(path.read_bytes()[:-20])
    [problem] = problems(ParquetPairOptions(path=str(path), source="de", target="en"))
    assert problem.startswith(f"{path}: not a Parquet file, or damaged (")


def flat() -> datasets.Dataset:
    return datasets.Dataset.from_dict({"de": [s for s, _ in ROWS], "en": [t for _, t in ROWS]})


def translations() -> datasets.Dataset:
    features = datasets.Features({"translation": datasets.Translation(languages=["de", "en"])})
    return datasets.Dataset.from_dict({"translation": [{"de": s, "en": t} for s, t in ROWS]}, features=features)


@pytest.mark.parametrize("build", [flat, translations])
def test_saved_data_set(tmp_path: Path, build: Callable[[], datasets.Dataset]) -> None:
    build().save_to_disk(tmp_path / "saved")
    assert list(opened(HuggingFacePairOptions(dataset=str(tmp_path / "saved")))) == PAIRS


def test_saved_data_set_with_splits(tmp_path: Path) -> None:
    folder = str(tmp_path / "saved")
    datasets.DatasetDict({"train": flat().select([2, 0]), "dev": translations()}).save_to_disk(folder)
    assert list(opened(HuggingFacePairOptions(dataset=folder, split="dev"))) == PAIRS
    assert [pair[:2] for pair in opened(HuggingFacePairOptions(dataset=folder))] == [ROWS[2], ROWS[0]]
    [problem] = problems(HuggingFacePairOptions(dataset=folder, split="test"))
    assert problem == f"{folder}, test: no split 'test'; there are 'train', 'dev'"
    [problem] = problems(HuggingFacePairOptions(dataset=folder, target="fr"))
    assert problem == f"{folder}, train: no column 'fr'; there are 'de', 'en'"
    assert [p.source for p in opened(HuggingFacePairOptions(dataset=folder, source="en", limit=1))] == ["sentence 3"]


def test_local_files_by_builder(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text("".join(json.dumps({"translation": {"de": s, "en": t}}) + "\n" for s, t in ROWS))
    corpus = opened(HuggingFacePairOptions(dataset="json", files=[str(path)]))
    assert list(corpus) == PAIRS
    assert corpus.name == f"json, {path}, train"


def test_data_set_mistakes_at_start(tmp_path: Path) -> None:
    folder = str(tmp_path / "no" / "such")
    assert problems(HuggingFacePairOptions(dataset=folder)) == (
        f"{folder}: no such folder, and not the name of a data set on the hub",
    )
    files = [str(tmp_path / name) for name in ("a.json", "b.json")]
    assert len(problems(HuggingFacePairOptions(dataset="json", files=files))) == 2
    (tmp_path / "bad.json").write_text("{")
    [problem] = problems(HuggingFacePairOptions(dataset="json", files=[str(tmp_path / "bad.json")]))
    assert problem.startswith(f"json, {tmp_path / 'bad.json'}, train: cannot be loaded (")
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "state.json").write_text("{}")
    [problem] = problems(HuggingFacePairOptions(dataset=str(tmp_path / "saved")))
    assert problem.startswith(f"{tmp_path / 'saved'}, train: not a saved data set, or damaged (")


class Malicious:
    """An object that makes a file when it is unpickled."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {self.proof}",)


def test_a_pickle_is_never_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    proof, evil = tmp_path / "proof", tmp_path / "evil.pkl"
    evil.write_bytes(pickle.dumps(Malicious(proof)))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert problems(HuggingFacePairOptions(dataset="pandas", files=[str(evil)])) == (
        "pandas: not a format for local files; choose from json, csv, parquet, text",
    )
    # The name of a format alone would read what lies in the working directory.
    assert problems(HuggingFacePairOptions(dataset="pandas")) == (
        "pandas, train: pandas is a format, not a data set; give `files` of it",
    )
    for name in ("json", "csv", "parquet", "text"):
        assert problems(HuggingFacePairOptions(dataset=name, files=[str(evil)]))
    (tmp_path / "folder").mkdir()
    evil.rename(tmp_path / "folder" / "train.pkl")
    script = tmp_path / "folder" / "folder.py"
    script.write_text(f"open({str(proof)!r}, 'w')")
    assert problems(HuggingFacePairOptions(dataset="folder"))
    assert not proof.exists()
    pickle.loads((tmp_path / "folder" / "train.pkl").read_bytes())
    assert proof.exists(), "the pickle is a real one"


@pytest.mark.parametrize("build", [flat, translations])
def test_damaged_memory_of_a_saved_data_set_is_found_before_it_is_used(
    tmp_path: Path, build: Callable[[], datasets.Dataset]
) -> None:
    build().save_to_disk(tmp_path / "saved")
    [file] = (tmp_path / "saved").glob("*.arrow")
    content = file.read_bytes()
    ends = struct.pack("<3i", 0, len(ROWS[0][0].encode()), sum(len(source.encode()) for source, _ in ROWS[:2]))
    assert content.count(ends) == 1
    file.write_bytes(content.replace(ends, struct.pack("<3i", 0, 1 << 30, 2 << 28)))
    [problem] = problems(HuggingFacePairOptions(dataset=str(tmp_path / "saved")))
    assert problem.startswith(f"{tmp_path / 'saved'}, train: damaged (")


def test_a_pipe_in_a_saved_data_set_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    flat().save_to_disk(tmp_path / "saved")
    [file] = (tmp_path / "saved").glob("*.arrow")
    file.unlink()
    os.mkfifo(file)
    [problem] = problems(HuggingFacePairOptions(dataset=str(tmp_path / "saved")))
    assert problem.startswith(f"{file}: is a pipe, not a file")


def run(program: str, **variables: str) -> str:
    """Runs the program in a process of its own and returns its output."""
    environment = os.environ | {"PYTHONPATH": str(Path(nmt.__file__).parents[1])} | variables
    command = [sys.executable, "-c", program]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout


def test_the_hub_out_of_reach_is_one_clear_line(tmp_path: Path) -> None:
    program = (
        "from nmt.config.schema import DataConfig\n"
        "from nmt.errors import DataError\n"
        "from nmt.data.readers.corpora import HuggingFacePairOptions, open_corpus\n"
        "options = HuggingFacePairOptions(dataset='someone/some-corpus', name='de-en')\n"
        "data = DataConfig(source_language='de', target_language='en', train=[options], validation=options)\n"
        "corpus = open_corpus(options, data)\n"
        "try:\n"
        "    list(corpus)\n"
        "except DataError as error:\n"
        "    print(error)\n"
    )
    [line] = run(program, HF_HUB_OFFLINE="1", HF_HOME=str(tmp_path)).splitlines()
    assert line.startswith("someone/some-corpus, de-en, train: cannot be loaded (")
    assert "`save_to_disk`" in line


def test_heavy_packages_wait_until_they_are_needed() -> None:
    program = (
        "import sys, nmt.data.readers.labelled, nmt.data.readers.corpora\n"
        "print({'datasets', 'pyarrow', 'zstandard', 'torch'} & set(sys.modules))"
    )
    assert run(program).strip() == "set()"
