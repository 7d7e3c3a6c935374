"""The Python API: results of the commands as objects, exceptions with a clear sentence, calls from several threads."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import pytest

import nmt
from nmt.api.arguments import SearchOptions, document_numbers
from nmt.cli import align, score, translate
from nmt.config.registry import split
from nmt.config.schema import SearchConfig
from nmt.data.tokenizer import TokenizerPair
from nmt.errors import CheckpointError, ConfigError, DataError, NmtError
from nmt.evaluation.alignment import pharaoh
from tests.support.commands import Call
from tests.support.models import REFERENCES, SOURCES, save_small

ROOT = Path(__file__).parent.parent
HEADS = "{preset: bahdanau2015, heads: 2}"


@pytest.fixture(scope="module")
def translator(checkpoint: Path) -> nmt.TextTranslator:
    return nmt.load(checkpoint, device="cpu")


def test_import_is_cheap() -> None:
    check = "import sys, nmt; nmt.__version__; sys.exit(bool({'torch', 'numpy', 'pydantic'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", check], cwd=ROOT, timeout=60).returncode == 0


def test_every_name_is_there() -> None:
    assert set(nmt.__all__) <= set(dir(nmt))
    for name in nmt.__all__:
        assert getattr(nmt, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'laod'"):
        _ = nmt.laod  # type: ignore[attr-defined]


def test_a_translation_is_that_of_the_command(call: Call, checkpoint: Path, translator: nmt.TextTranslator) -> None:
    lines = [SOURCES[3], "", SOURCES[0]]
    results = translator.translate(lines, n_best=2, beam_size=4)
    assert [result.text for result in results] == [REFERENCES[3], "", REFERENCES[0]]
    arguments = ["--model", checkpoint, "--format", "jsonl", "--n-best", 2, "--beam-size", 4]
    ended = call(translate.main, *arguments, stdin="\n".join(lines).encode())
    for line, result in zip(map(json.loads, ended.output.splitlines()), results, strict=True):
        assert line["source_pieces"] == list(result.source_pieces)
        for shown, mine in zip(line["hypotheses"], result.hypotheses, strict=True):
            assert (shown["text"], shown["score"], shown["pieces"]) == (mine.text, mine.score, list(mine.pieces))
            words = " ".join(f"{source}-{target}" for source, target in mine.alignment("words"))
            assert shown["alignments"]["words"] == words


def test_a_blank_line_has_no_translation(translator: nmt.TextTranslator) -> None:
    (blank,) = translator.translate([" "])
    assert (blank.text, blank.pieces, blank.attention, blank.hypotheses) == ("", (), None, ())
    assert blank.alignment() == []
    assert "<table" in blank._repr_html_()
    assert translator.translate([]) == []


def test_attention_of_the_heads(tmp_path: Path, tokenizers: TokenizerPair) -> None:
    translator = nmt.load(save_small(tmp_path / "heads", tokenizers, attention=HEADS), device="cpu")
    (result,) = translator.translate(SOURCES[:1], heads=True)
    assert result.attention is not None
    assert result.head_attention is not None
    shape = len(result.pieces) + 1, len(result.source_pieces) + 1
    assert (result.attention.shape, result.head_attention.shape) == (shape, (2, *shape))
    assert np.abs(result.head_attention.sum(-1) - 1.0).max() < 1e-6
    assert np.abs(result.head_attention.mean(0) - result.attention).max() < 1e-7
    assert np.abs(result.head_attention[0] - result.head_attention[1]).max() > 1e-3
    (plain,) = translator.translate(SOURCES[:1])
    assert plain.head_attention is None
    assert np.array_equal(plain.attention, result.attention)  # type: ignore[arg-type]
    (none,) = translator.translate(SOURCES[:1], attention=False)
    assert (none.attention, none.score) == (None, plain.score)


def test_prefixes(translator: nmt.TextTranslator) -> None:
    forced, free = translator.translate([SOURCES[0]] * 2, prefixes=["a child", ""])
    assert forced.text.startswith("a child")
    assert free.text == REFERENCES[0]


def test_documents_are_runs_of_equal_names() -> None:
    assert document_numbers(["a", "a", "b", "a", None, None]) == [0, 0, 1, 2, 3, 3]
    assert document_numbers([]) == []


def test_an_ensemble(checkpoint: Path, tmp_path: Path, tokenizers: TokenizerPair) -> None:
    other = save_small(tmp_path / "other", tokenizers, seed=2)
    both = nmt.load(checkpoint, other, device="cpu")
    assert len(both.models) == 2
    alone = [nmt.load(path, device="cpu").translate(SOURCES[:1], heads=True)[0] for path in (checkpoint, other)]
    (together,) = both.translate(SOURCES[:1], heads=True)
    assert together.text == REFERENCES[0]
    mean = np.mean([each.attention for each in alone], axis=0)  # type: ignore[arg-type]
    assert np.abs(together.attention - mean).max() < 1e-6  # type: ignore[operator]
    assert together.head_attention.shape == (1, *mean.shape)  # type: ignore[union-attr]


def test_nothing_is_printed_unless_requested(
    translator: nmt.TextTranslator, checkpoint: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    nmt.load(checkpoint)
    translator.translate([" ".join(SOURCES)], max_length=5)
    assert capfd.readouterr() == ("", "")
    translator.translate(SOURCES, progress=True)
    # A bar that is done within a tenth of a second is not drawn again.
    assert "/6 [" in capfd.readouterr().err


def test_threads_get_the_results_that_each_would_get_alone(translator: nmt.TextTranslator) -> None:
    def work(seed: int) -> list[Any]:
        lines = SOURCES[seed % 6 :] + SOURCES[: seed % 6]
        results = translator.translate(lines, n_best=2, beam_size=2 + seed % 3, length_penalty=seed / 10)
        drawn = translator.translate(lines, kind="sampling", seed=seed)
        return [(each.text, each.score, each.ids) for result in results + drawn for each in result.hypotheses]

    alone = [work(seed) for seed in range(12)]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(work, range(12))) == alone


def test_the_options_of_the_search_are_those_of_the_config() -> None:
    options = {name: split(field.annotation)[0] for name, field in SearchConfig.model_fields.items()}
    assert get_type_hints(SearchOptions) == options


@pytest.mark.parametrize(
    ("lines", "arguments", "message"),
    [
        ("hund", {}, "lines: must be a list of texts, not one text; write [text]"),
        (3, {}, "lines: must be a list of texts, not int"),
        ({"a": "b"}, {}, "lines: must be a list of texts, not dict"),
        (["a", None], {}, "lines: entry 2 must be text, not NoneType"),
        (["a"], {"beam_sise": 4}, "beam_sise: unknown argument; did you mean 'beam_size'?"),
        (["a"], {"beam_size": "4"}, "beam_size: must be a whole number from 1 to 1,000, not '4'"),
        (["a"], {"beam_size": True}, "beam_size: must be a whole number from 1 to 1,000, not True"),
        (["a"], {"kind": "baem"}, "kind: must be beam, greedy or sampling, not 'baem'; did you mean 'beam'?"),
        (["a"], {"n_best": 0}, "n_best: must be a whole number from 1 to 1,000, not 0"),
        (["a"], {"n_best": 4}, "n_best: is 4, above beam_size (3); set beam_size=4 or more"),
        (["a"], {"n_best": 2, "kind": "greedy"}, "kind: greedy search cannot give the 2 best"),
        (["a"], {"temperature": 2.0}, 'temperature: has no effect with kind="beam"; set kind="sampling", or leave'),
        (["a"], {"shortlist": 5}, "shortlist: "),
        (["a"], {"max_length": 0}, "max_length: must be a whole number from 1"),
        (["a"], {"seed": -1}, "seed: must be a whole number from 0"),
        (["a"], {"prefixes": "b"}, "prefixes: must be a list of texts, not one text"),
        (["a"], {"prefixes": ["b", "c"]}, "prefixes: has 2 entries, and lines has 1; give one for each"),
        (["a"], {"documents": []}, "documents: has 0 entries, and lines has 1; give one for each"),
    ],
)
def test_wrong_arguments(translator: nmt.TextTranslator, lines: Any, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        translator.translate(lines, **arguments)
    assert caught.value.problems[0].startswith(message)


def test_text_that_is_none(translator: nmt.TextTranslator) -> None:
    with pytest.raises(DataError, match=r"^lines: character 3 of entry 2 is half of a character"):
        translator.translate(["a", "ab\ud800"])


def test_wrong_models(tmp_path: Path, checkpoint: Path) -> None:
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        nmt.load(tmp_path / "no")
    with pytest.raises(ConfigError, match=r"^checkpoint: must be best, last or null, not 'newest'"):
        nmt.load(checkpoint, checkpoint="newest")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"^precision: fp16 needs a GPU"):
        nmt.load(checkpoint, device="cpu", precision="fp16")
    with pytest.raises(ConfigError, match=r"^threads: must be a whole number"):
        nmt.load(checkpoint, threads=-1)
    assert issubclass(ConfigError, NmtError)


def test_scores_of_pairs(translator: nmt.TextTranslator, call: Call, checkpoint: Path) -> None:
    results = translator.score([*SOURCES, "hund"], [*REFERENCES, " "])
    empty = results.pop()
    assert (empty.log_probability, empty.pieces, empty.piece_log_probabilities) == (-math.inf, (), ())
    stdin = "".join(f"{source}\t{target}\n" for source, target in zip(SOURCES, REFERENCES, strict=True)).encode()
    ended = call(score.main, "--model", checkpoint, stdin=stdin)
    assert [f"{result.per_piece:.4f}" for result in results] == ended.output.splitlines()
    for result, (translation,) in zip(
        results, (each.hypotheses for each in translator.translate(SOURCES)), strict=True
    ):
        assert result.target == translation.text
        assert result.pieces == translation.pieces
        assert result.log_probability == pytest.approx(sum(result.piece_log_probabilities), abs=1e-5)
        assert result.piece_log_probabilities == pytest.approx(translation.piece_log_probabilities, abs=1e-4)


def test_alignments_of_pairs(translator: nmt.TextTranslator, call: Call, checkpoint: Path, tmp_path: Path) -> None:
    sides = [*SOURCES, ""], [*REFERENCES, "a dog"]
    for name, lines in zip(("de", "en"), sides, strict=True):
        (tmp_path / name).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    for unit, linking in (("words", "grow-diag"), ("pieces", "argmax")):
        results = translator.align(*sides, unit=unit, linking=linking)  # type: ignore[arg-type]
        arguments = ["--source", tmp_path / "de", "--target", tmp_path / "en", "--unit", unit, "--linking", linking]
        ended = call(align.main, "--model", checkpoint, *arguments)
        assert [pharaoh(list(result.links)) for result in results] == ended.output.splitlines()
        assert (results[-1].links, results[-1].weights) == ((), None)
        (translation,) = translator.translate(SOURCES[:1])
        assert translation.pieces == results[0].pieces
        assert np.abs(results[0].weights - translation.attention).max() < 1e-4  # type: ignore[operator]
    weights = [float(title.rpartition(": ")[2]) for title in Cells(results[0]._repr_html_()).titles]
    assert len(weights) == results[0].weights.size  # type: ignore[union-attr]


def test_wrong_pairs(translator: nmt.TextTranslator, tmp_path: Path, tokenizers: TokenizerPair) -> None:
    for method in (translator.score, translator.align):
        with pytest.raises(ConfigError, match=r"^targets: has 1 entries, and sources has 2; give one for each"):
            method(["a", "b"], ["c"])
        with pytest.raises(ConfigError, match=r"^sources: must be a list of texts, not one text"):
            method("a", ["c"])
        with pytest.raises(ConfigError, match=r"^batch_tokens: must be a whole number"):
            method(["a"], ["c"], batch_tokens=0)
    with pytest.raises(ConfigError, match=r"^unit: must be pieces or words, not 'word'; did you mean 'words'"):
        translator.align(["a"], ["b"], unit="word")  # type: ignore[arg-type]
    plain = nmt.load(save_small(tmp_path / "plain", tokenizers, attention="sutskever2014", updates=0))
    with pytest.raises(ConfigError, match="has no attention to align by"):
        plain.align(["a"], ["b"])
    assert plain.translate(["hund"])[0].attention is None
    assert math.isfinite(plain.score(["hund"], ["dog"])[0].log_probability)


class Cells(HTMLParser):
    """The tooltips of a table, and whether every tag is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.titles: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open.append(tag)
        self.titles += [value for name, value in attrs if name == "title" and value]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_a_notebook_shows_the_attention(translator: nmt.TextTranslator) -> None:
    (result,) = translator.translate([SOURCES[0] + ' <b> & "'])
    shown = Cells(result._repr_html_())
    assert shown.open == []
    weights = [float(title.rpartition(": ")[2]) for title in shown.titles]
    assert np.abs(np.reshape(weights, result.attention.shape) - result.attention).max() < 6e-4  # type: ignore[union-attr]
    assert shown.titles[0].startswith(f"{result.pieces[0]} ← {result.source_pieces[0]}: ")
