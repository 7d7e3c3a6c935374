"""nmt-augment: pairs of back-translation and distillation, their choice, and runs that continue."""

from __future__ import annotations

import gzip
import json
import re
import shlex
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from nmt.cli import augment, evaluate, train, translate
from nmt.config.schema import FiltersConfig, SearchConfig
from nmt.data.cleaning import PairRules
from nmt.data.readers.corpora import TsvPairOptions, open_corpus
from nmt.data.tokenizer import TokenizerPair, learn
from nmt.errors import DataError
from nmt.evaluation.metrics import sentence_scores
from nmt.tasks.translation import synthetic
from nmt.tasks.translation.loading import System, TrainedModel
from nmt.tasks.translation.synthetic import Choice, Job, nearest_translation, translate_into, write_pairs
from nmt.tasks.translation.text_translation import Request, Translation, translate_lines
from tests.support.commands import Call
from tests.support.models import REFERENCES, SOURCES, save_small, small_config

SAMPLING = SearchConfig(kind="sampling", top_k=20)
ROOT = Path(__file__).parent.parent
LINES = [SOURCES[row % 6] if row % 5 else f"{SOURCES[row % 6]} {SOURCES[(row + 1) % 6]}" for row in range(11)]


def tsv_lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").split("\n")[:-1]


def text_of(lines: Sequence[str]) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode()


def translations_of(system: System, lines: Sequence[str], search: SearchConfig, request: Request) -> list[str]:
    return [best.text for best, *_ in translate_lines(system, lines, search, request)]


def test_the_input_is_the_target_of_a_back_translation(
    call: Call, checkpoint: Path, system: System, model: TrainedModel, tmp_path: Path
) -> None:
    """In order, with its tag, from compressed text, read as a corpus as it stands; every line accounted for."""
    long = " ".join(SOURCES)
    (tmp_path / "mono.de.gz").write_bytes(gzip.compress(text_of([*SOURCES[:3], "", long, "der\thund schläft .", "x"])))
    output = tmp_path / "pairs.tsv"
    arguments = ["--input", tmp_path / "mono.de.gz", "--output", output, "--tag", "<BT>", "--max-length", 40]
    ended = call(augment.main, "backtranslate", "--model", checkpoint, *arguments)
    assert ended.code == 0, ended.errors
    assert [output.name, "mono.de.gz"] == sorted((path.name for path in tmp_path.iterdir()), reverse=True)
    targets = [*SOURCES[:3], "der hund schläft .", "x"]
    expected = translations_of(system, targets, model.config.search, Request())
    corpus = open_corpus(TsvPairOptions(path=str(output)), model.config.data)
    pairs = [(pair.source, pair.target) for pair in corpus]
    assert pairs == [(f"<BT> {made}", target) for made, target in zip(expected, targets, strict=True)]
    assert "7 lines read, 5 kept; left out: empty side 1 (line 4), too long 1 (line 5)" in ended.errors
    assert 'user_defined_symbols: ["<BT>"]' in ended.errors


def test_the_input_is_the_source_in_distillation(
    call: Call, checkpoint: Path, system: System, model: TrainedModel, tokenizers: TokenizerPair, tmp_path: Path
) -> None:
    """From standard input, by one model and by an ensemble; a reference changes nothing without --nearest."""
    output, other = tmp_path / "pairs.tsv", save_small(tmp_path / "other", tokenizers, seed=2, updates=3)
    lines = [f"{source}\tx" for source in SOURCES]
    ended = call(augment.main, "distill", "--model", checkpoint, "--output", output, stdin=text_of(lines))
    expected = translations_of(system, SOURCES, model.config.search, Request())
    assert tsv_lines(output) == [f"{source}\t{made}" for source, made in zip(SOURCES, expected, strict=True)]
    assert "6 lines read, 6 kept\n" in ended.errors
    ensemble = ["--model", checkpoint, "--model", other]
    together = call(translate.main, *ensemble, stdin=text_of(SOURCES)).output.splitlines()
    output.unlink()
    assert call(augment.main, "distill", *ensemble, "--output", output, stdin=text_of(SOURCES)).code == 0
    assert [line.split("\t")[1] for line in tsv_lines(output)] == together


def translation(text: str) -> Translation:
    return Translation(text, 0.0, 0.0, (), (), ())


def test_the_nearest_translation_by_hand() -> None:
    made = [translation("the cat sees a dog"), translation("the dog sees a cat"), translation("the dog sees a cat")]
    for metric in ("bleu", "chrf"):
        assert nearest_translation(made, "the dog sees a small cat", metric) is made[1]
        assert nearest_translation(made, "the cat sees a dog", metric) is made[0]
        # Of equal scores the first.
        assert nearest_translation(made[1:], "x", metric) is made[1]


def test_nearest_takes_the_best_of_the_beam(
    call: Call, checkpoint: Path, system: System, model: TrainedModel, tmp_path: Path
) -> None:
    output = tmp_path / "pairs.tsv"
    # References of other sentences: seldom the first of the beam is the nearest.
    references = REFERENCES[1:] + REFERENCES[:1]
    lines = [f"{a}\t{b}" for a, b in zip(SOURCES, references, strict=True)]
    search = model.config.search.model_copy(update={"beam_size": 6})
    beams = translate_lines(system, SOURCES, search, Request(n_best=6))
    chosen = {}
    for metric in ("bleu", "chrf"):
        arguments = ["--output", output, "--nearest", metric, "--beam-size", 6]
        assert call(augment.main, "distill", "--model", checkpoint, *arguments, stdin=text_of(lines)).code == 0
        chosen[metric] = [line.split("\t")[1] for line in tsv_lines(output)]
        for text, beam, reference in zip(chosen[metric], beams, references, strict=True):
            scores = sentence_scores([each.text for each in beam], [reference] * len(beam), metric)
            assert text == beam[scores.index(max(scores))].text
        output.unlink()
    assert chosen["chrf"] != [beam[0].text for beam in beams]
    # A sentence without a reference, after the translations of a window; a blank line needs none.
    lines[3] = SOURCES[3]
    ended = call(augment.main, "distill", "--model", checkpoint, *arguments, stdin=text_of([*lines[:3], "", lines[3]]))
    assert (ended.code, ended.errors) == (2, "line 5: has no reference after a TAB, which --nearest needs; add it\n")


def test_rules_and_scores_leave_pairs_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By hand: a copy, garbled text, unequal lengths, a low score; each line is counted once."""
    monkeypatch.setattr(synthetic, "WINDOW", 3)
    rows = [
        ("ein guter tag", 3, "a good day", 3, -1.0),
        ("die katze schläft", 3, "die katze schläft", 3, -0.1),
        ("f\ufffdr mich", 2, "for me", 2, -0.2),
        ("ja", 1, "yes yes yes yes", 4, -0.3),
        ("der hund", 2, "the dog", 2, -3.0),
        ("ein baum", 2, "a tree", 2, -2.0),
        ("ein ball", 2, "a ball", 2, -2.0),
    ]
    names = ("line", "pieces", "translation", "translation_pieces", "score")
    filters = FiltersConfig(copies="drop", garbled="drop", max_ratio=3.0)
    rules = PairRules(filters, ("de", "en"))

    def written(**options: float) -> tuple[list[str], str, float]:
        work, output = tmp_path / "work", tmp_path / "pairs.tsv"
        content = [{"format": 1, "settings": {}}, *(dict(zip(names, row, strict=True)) for row in rows)]
        work.write_text("".join(json.dumps(row) + "\n" for row in content))
        counts, worst = write_pairs(work, output, "distill", Choice(filters, rules, **options))
        assert not work.exists()
        assert counts.read == len(rows) == counts.kept + counts.dropped_total
        return [line.split("\t")[0] for line in tsv_lines(output)], counts.dropped_text(), worst

    every = "copy 1 (line 2), garbled 1 (line 3), length ratio 1 (line 4)"
    assert written() == (["ein guter tag", "der hund", "ein baum", "ein ball"], every, -3.0)
    low = (["ein guter tag", "ein baum", "ein ball"], f"{every}, low score 1 (line 5)", -2.0)
    assert written(min_score=-2.0) == low
    # Three quarters of the four pairs, not of the seven lines; of equal scores the first.
    assert written(share=0.75) == low
    assert written(share=0.5) == (["ein guter tag", "ein baum"], f"{every}, low score 2 (lines 5, 7)", -2.0)
    with pytest.raises(DataError, match="no pair is left to write"):
        written(min_score=-0.5)
    assert (tmp_path / "work").exists()


def test_scores_are_log_probabilities_per_piece(model: TrainedModel, system: System, tmp_path: Path) -> None:
    """Of the model itself at temperature 1, the end of the sentence counted, whatever sampling draws from."""
    search = SearchConfig(kind="sampling", temperature=2.0)
    translate_into(tmp_path / "work", Job("distill", search), [model], system, SOURCES)
    rows = [json.loads(line) for line in (tmp_path / "work").read_text(encoding="utf-8").splitlines()[1:]]
    for row, (made, *_) in zip(rows, translate_lines(system, SOURCES, search, Request()), strict=True):
        assert row["score"] == pytest.approx(sum(made.piece_log_probabilities) / len(made.piece_log_probabilities))
        assert row["translation_pieces"] == len(made.pieces)


def test_a_line_that_is_too_long_is_not_translated(model: TrainedModel, system: System, tmp_path: Path) -> None:
    lines = ["der hund", " ".join(SOURCES), "x" * 20_000]  # the last is not even tokenized
    translate_into(tmp_path / "work", Job("distill", SearchConfig(), max_length=20), [model], system, lines)
    rows = [json.loads(line) for line in (tmp_path / "work").read_text(encoding="utf-8").splitlines()[1:]]
    assert [bool(row["translation"]) for row in rows] == [True, False, False]
    (ids,) = system.tokenizers.source.encode(lines[1:2])
    assert [row["pieces"] for row in rows[1:]] == [len(ids), 21]


class Stop(BaseException):
    """The end of the process, where a test wants it."""


@pytest.mark.parametrize("search", [SAMPLING, SearchConfig(beam_size=3)], ids=["sampling", "beam"])
@pytest.mark.parametrize("rest", [b"", b'{"line": "der h', b"\0\0\n", b"window"])
def test_a_killed_run_continues_to_the_same_bytes(
    model: TrainedModel,
    system: System,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    search: SearchConfig,
    rest: bytes,
) -> None:
    """After the last whole window, whatever follows it: nothing, half a line, zeros, or a part of a window."""
    monkeypatch.setattr(synthetic, "WINDOW", 4)
    job, lines = Job("backtranslate", search, seed=3), [*LINES[:7], "", *LINES[7:]]
    run = partial(translate_into, job=job, models=[model], system=system, lines=lines)
    run(tmp_path / "whole")
    whole = (tmp_path / "whole").read_bytes()
    assert whole.count(b"\n") == 1 + len(lines)
    calls: list[int] = []

    def counting(*arguments: Any, first_line: int, **options: Any) -> list[list[Translation]]:
        if stop and calls[-1:] == [5]:
            raise Stop
        calls.append(first_line)
        return translate_lines(*arguments, first_line=first_line, **options)

    monkeypatch.setattr(synthetic, "translate_lines", counting)
    work, stop = tmp_path / "work", True
    with pytest.raises(Stop):
        run(work)
    assert whole.startswith(work.read_bytes())
    with work.open("ab") as file:
        file.write(whole.splitlines(keepends=True)[9] if rest == b"window" else rest)
    stop, advanced = False, 0

    def advance(count: int) -> None:
        nonlocal advanced
        advanced += count

    run(work, advance=advance)
    assert work.read_bytes() == whole
    assert calls == [1, 5, 9]
    assert advanced == len(lines)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["whole", "work"]


def test_samples_depend_on_seed_and_line_alone(
    model: TrainedModel, system: System, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = {}
    for name, window, tokens, seed in (("a", 100, 4096, 1), ("b", 2, 30, 1), ("c", 100, 4096, 2)):
        monkeypatch.setattr(synthetic, "WINDOW", window)
        job = Job("distill", SAMPLING.model_copy(update={"batch_tokens": tokens}), seed=seed)
        translate_into(tmp_path / name, job, [model], system, LINES)
        rows = (tmp_path / name).read_text(encoding="utf-8").splitlines()[1:]
        made[name] = [json.loads(row)["translation"] for row in rows]
    assert made["a"] == made["b"]
    assert made["a"] != made["c"]
    # Equal lines draw differently.
    assert len({made["a"][row] for row in (1, 7)}) == 2


def test_another_run_is_not_continued(
    call: Call, checkpoint: Path, tokenizers: TokenizerPair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other options, another model or another text: one line that names the difference, and nothing is lost."""
    monkeypatch.setattr(synthetic, "WINDOW", 2)
    output, work = tmp_path / "pairs.tsv", tmp_path / "pairs.tsv.part"
    arguments = ["distill", "--output", output, "--kind", "sampling", "--min-score", 0, "--threads", 1]
    first = call(augment.main, *arguments, "--model", checkpoint, stdin=text_of(LINES))
    assert first.code == 2  # no pair has this score: the work file stays
    before = work.read_bytes()
    other = save_small(tmp_path / "other", tokenizers, seed=2, updates=1)

    def refusal(*more: object, lines: Sequence[str] = LINES, model: Path = checkpoint) -> str:
        ended = call(augment.main, *arguments, *more, "--model", model, stdin=text_of(lines))
        assert (ended.code, ended.errors.count("\n")) == (2, 1), ended.errors
        assert work.read_bytes() == before
        return ended.errors

    options = f"{work}: is of an interrupted run with other options"
    assert refusal("--seed", 2).startswith(f"{options} (seed 1, not 2); give the same ones, or delete the file")
    assert refusal("--top-k", 5, "--max-length", 7).startswith(f"{options} (max_length 100, not 7, top_k 0, not 5);")
    assert refusal(model=other).startswith(f"{options} (another model);")
    assert refusal("--model", other).startswith(f"{options} (another model);")
    ended = call(augment.main, "backtranslate", *arguments[1:], "--model", checkpoint, stdin=text_of(LINES))
    assert "(method distill, not backtranslate)" in ended.errors
    assert f"{work}: translates another line 2 than the input has" in refusal(lines=[LINES[0], "x", *LINES[2:]])
    assert f"{work}: translates another line 4 than the input has" in refusal(lines=LINES[:3])
    # Filters, threshold and tag belong to the choice of pairs.
    ended = call(
        augment.main, *arguments[:5], "--keep", 0.5, "--model", checkpoint, "--tag", "<D>", stdin=text_of(LINES)
    )
    assert ended.code == 0, ended.errors
    assert "low score" in ended.errors
    assert {line.partition(" ")[0] for line in tsv_lines(output)} == {"<D>"}
    work.write_text("a text\n")
    output.unlink()
    ended = call(augment.main, *arguments, "--model", checkpoint, stdin=text_of(LINES))
    assert ended.errors == f"{work}: is no work file of this version; delete it, or name another output\n"


def test_the_pairs_of_a_config_without_its_validation_split(
    call: Call, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    copy = "guten tag mein freund"
    rows = [*zip(SOURCES, REFERENCES, strict=True), (copy, copy)]
    Path("my.tsv").write_bytes(text_of([f"{a}\t{b}" for a, b in rows]))
    config = """
run: runs/my
data: {source_language: de, target_language: en, train: {kind: tsv, path: my.tsv}, validation: {split: 2},
  filters: {copies: drop}}
"""
    Path("my.yaml").write_text(config)
    arguments = ["distill", "--model", checkpoint, "--config", "my.yaml", "--output", "pairs.tsv", "--nearest", "chrf"]
    ended = call(augment.main, *arguments)
    assert ended.code == 0, ended.errors
    sources = [line.split("\t")[0] for line in tsv_lines(Path("pairs.tsv"))]
    assert len(sources) == 4
    assert sources == [source for source in SOURCES if source in sources]
    Path("pairs.tsv").unlink()
    Path("my.yaml").write_text(config.replace("source_language: de", "source_language: fr"))
    assert "my.yaml: has no pairs from de to en, which" in call(augment.main, *arguments).errors


@pytest.mark.parametrize("kind", ["bpe", "unigram", "char"])
def test_a_tag_is_one_piece_if_the_tokenizer_knows_it(kind: str) -> None:
    def pairs() -> list[tuple[str, str]]:
        return [(f"<BT> {a}", b) for a, b in zip(SOURCES, REFERENCES, strict=True)] * 3

    def pieces(*overrides: str) -> list[str]:
        options = small_config(
            overrides=[f"tokenizer.kind={kind}", "tokenizer.vocabulary_size=70", *overrides]
        ).tokenizer
        source = learn(options, pairs, seed=1).source
        (ids,) = source.encode([pairs()[0][0]])
        return source.pieces(ids)

    known = pieces('tokenizer.user_defined_symbols=["<BT>"]')
    assert known.count("<BT>") == 1
    assert "".join(known).replace("▁", " ").split() == ["<BT>", *SOURCES[0].split()]
    assert all("BT" not in piece or piece == "<BT>" for piece in known)
    assert {"<BT>", "▁<BT>"}.isdisjoint(pieces())


def test_a_tag_of_letters_and_digits_is_a_word() -> None:
    options = small_config(overrides=["tokenizer.kind=word", "tokenizer.vocabulary_size=30"]).tokenizer
    source = learn(options, lambda: [(f"bt0 {a}", f"bt0 {a}") for a in SOURCES], seed=1).source
    (ids,) = source.encode(["bt0 der hund"])
    assert source.pieces(ids)[:2] == ["▁bt0", "▁der"]


def test_the_page_leads_from_monolingual_text_to_a_model(
    call: Call, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commands of docs/augmentation.md, with small networks: every file that they write is read by the next one."""
    page = (ROOT / "docs" / "augmentation.md").read_text(encoding="utf-8")
    (config,) = re.findall(r"^```yaml\n(.*?)^```", page, re.M | re.S)
    commands = "".join(re.findall(r"^```sh\n(.*?)^```", page, re.M | re.S)).splitlines()
    assert len(commands) == 7
    monkeypatch.chdir(tmp_path)
    Path("my.yaml").write_text(config, encoding="utf-8")
    for name in ("my.tsv", "valid.tsv"):
        Path(name).write_bytes(text_of([f"{a}\t{b}" for a, b in zip(SOURCES, REFERENCES, strict=True)] * 4))
    for name in ("test.de", "more.de"):
        Path(name).write_bytes(text_of(SOURCES[:2]))
    for name in ("test.en", "mono.en"):
        Path(name).write_bytes(text_of(REFERENCES[:2]))
    Path("runs").mkdir()
    for name in ("large", "larger"):
        Path("runs", name).symlink_to(checkpoint)
    small = "tokenizer.vocabulary_size=70 model.embedding_size=8 model.encoder.hidden_size=8 runtime.threads=1"
    small += " model.decoder.hidden_size=8 training.max_steps=2 validation.sentences=1"
    modules = {"nmt-train": train, "nmt-augment": augment, "nmt-eval": evaluate}
    for command, *words in map(shlex.split, commands):
        extra = [word for setting in small.split() for word in ("--set", setting)] if command == "nmt-train" else []
        # Untrained networks translate into nonsense, of any length.
        extra += ["--max-ratio", "1000"] if command == "nmt-augment" else []
        ended = call(modules[command].main, *words, *extra)
        assert ended.code == 0, ended.errors
    log = Path("runs/my/train.log").read_text(encoding="utf-8")
    assert "my.tsv: 24 pairs read" in log
    assert "bt.tsv: 2 pairs read" in log
    assert [line.split("\t")[1] for line in tsv_lines(Path("bt.tsv"))] == REFERENCES[:2]
    assert all(line.startswith("<BT> ") for line in tsv_lines(Path("bt.tsv")))
    assert [len(tsv_lines(Path(name))) for name in ("distilled.tsv", "nearest.tsv", "more.tsv")] == [26, 24, 2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["backtranslate", "--nearest", "bleu"], "nmt-augment: --nearest is for distill; leave it out"),
        (["backtranslate", "--config", "a.yaml"], "nmt-augment: --config is for distill; leave it out"),
        (["distill", "--config", "a", "--input", "b"], "nmt-augment: --input is instead of --config"),
        (["distill", "--tag", "a b"], "nmt-augment: --tag: must be one word without spaces"),
        (["distill", "--keep", "0"], "nmt-augment: --keep: must be a number above 0 up to 1, not '0'"),
        (["distill", "--min-score", "1"], "nmt-augment: --min-score: must be a number up to 0, not '1'"),
        (["distill", "--keep", "1", "--min-score", "-1"], "not allowed with argument --keep"),
        (["distil"], "invalid choice: 'distil'"),
        (["distill", "--input", "none"], "none: no such file"),
        (["distill", "--output", "no/out"], "no/out: cannot be written: no is no folder; create it first"),
        (["distill", "--output", "exists"], "exists: exists already; name another --output, or delete it"),
    ],
)
def test_arguments(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "exists").touch()
    ended = call(augment.main, "--model", "m", "--output", "out", *arguments)
    assert ended.code == 2
    assert message in ended.errors
    assert ended.errors.count("\n") == 1


def test_mistakes_that_a_model_shows(call: Call, checkpoint: Path, tmp_path: Path) -> None:
    arguments = ["distill", "--model", checkpoint, "--output", tmp_path / "out"]
    for options in (["--kind", "greedy"], ["--beam-size", "1"]):
        ended = call(augment.main, *arguments, "--nearest", "bleu", *options)
        message = "--nearest: chooses from a beam; set --kind beam and a --beam-size of 2 or more\n"
        assert (ended.code, ended.errors) == (2, message)
    ended = call(augment.main, *arguments, stdin=b"ein\n\xff\n")
    assert ended.errors.startswith("standard input:2: not UTF-8")
    assert (tmp_path / "out.part").read_bytes().count(b"\n") == 2


def test_a_work_file_has_one_writer(model: TrainedModel, system: System, tmp_path: Path) -> None:
    work, job = tmp_path / "work", Job("distill", SearchConfig())

    def lines() -> Any:
        yield "ein hund"
        with pytest.raises(DataError, match="another process writes this file"):
            translate_into(work, job, [model], system, ["x"])

    translate_into(work, job, [model], system, lines())
    assert work.read_bytes().count(b"\n") == 2
