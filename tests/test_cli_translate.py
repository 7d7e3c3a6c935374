"""nmt-translate, nmt-average and what all commands share: text, flags, mistakes, and how they end."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from nmt.checkpoint import Origin, RunFolder, Snapshot, saved_tensors
from nmt.cli import average, options, translate
from nmt.cli.common import run
from nmt.cli.options import Parser
from nmt.config.schema import SearchConfig
from nmt.data.tokenizer import TokenizerPair
from nmt.errors import ConfigError, DataError
from nmt.tasks.translation.loading import load_model
from tests.support.commands import Call, Ended
from tests.support.models import CPU, REFERENCES, SOURCES, save_small, small_config, small_translator

ROOT = Path(__file__).parent.parent
INPUT = "\n".join([SOURCES[3], "", SOURCES[0]]) + "\n"
OUTPUT = "\n".join([REFERENCES[3], "", REFERENCES[0]]) + "\n"


def start(module: str, *arguments: object, **streams: int | None) -> subprocess.Popen[bytes]:
    """The command as a process of its own."""
    command = [sys.executable, "-m", module, *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, cwd=ROOT, env=environment, **streams)


def assert_mistake(ended: Ended, message: str) -> None:
    """One line, no traceback, code 2."""
    assert ended.code == 2, ended
    assert ended.errors.count("\n") == 1, ended.errors
    assert message in ended.errors
    assert ended.output == ""


# Text


@pytest.mark.parametrize("ending", ["", "\n"])
def test_a_line_out_for_every_line_in(call: Call, checkpoint: Path, ending: str) -> None:
    ended = call(translate.main, "--model", checkpoint, stdin=(INPUT.rstrip("\n") + ending).encode())
    assert ended == Ended(0, OUTPUT, "")


def test_nothing_in_nothing_out(call: Call, checkpoint: Path) -> None:
    assert call(translate.main, "--model", checkpoint) == Ended(0, "", "")


def test_lines_end_at_line_feeds_only(call: Call, checkpoint: Path) -> None:
    text = f"\ufeff{SOURCES[3]}\r\nein\u2028kind\x0c\x85 .\r\n"
    ended = call(translate.main, "--model", checkpoint, stdin=text.encode())
    assert ended.code == 0
    assert ended.output.startswith(REFERENCES[3] + "\n")
    assert ended.output.count("\n") == 2


def test_files_instead_of_streams(call: Call, checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "in.de").write_text(INPUT, encoding="utf-8")
    arguments = ["--model", checkpoint, "--input", tmp_path / "in.de", "--output", tmp_path / "out.en"]
    assert call(translate.main, *arguments) == Ended(0, "", "")
    assert (tmp_path / "out.en").read_text(encoding="utf-8") == OUTPUT


def test_everything_in_json(call: Call, checkpoint: Path) -> None:
    arguments = ["--model", checkpoint, "--format", "jsonl", "--n-best", 2, "--linking", "argmax"]
    ended = call(translate.main, *arguments, stdin=INPUT.encode())
    lines = [json.loads(line) for line in ended.output.splitlines()]
    assert [line["line"] for line in lines] == [1, 2, 3]
    assert [line["translation"] for line in lines] == OUTPUT.splitlines()
    assert [len(line["hypotheses"]) for line in lines] == [2, 0, 2]
    best = lines[0]["hypotheses"][0]
    assert set(best) == {"text", "score", "log_probability", "pieces", "log_probabilities", "alignments"}
    assert len(best["alignments"]["pieces"].split()) == len(best["pieces"])


def test_fields_in_text(call: Call, checkpoint: Path) -> None:
    arguments = ["--model", checkpoint, "--n-best", 2, "--alignments", "pieces"]
    lines = call(translate.main, *arguments, stdin=INPUT.encode()).output.splitlines()
    assert [line.split(" ||| ")[0] for line in lines] == ["0", "0", "1", "2", "2"]
    number, text, score, pairs = lines[0].split(" ||| ")
    assert (number, text) == ("0", REFERENCES[3])
    assert float(score) > float(lines[1].split(" ||| ")[2])
    assert all(part.replace("-", "").isdecimal() for part in pairs.split())


def test_prefixes(call: Call, checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "prefixes.en").write_text("a child\n\n\n", encoding="utf-8")
    ended = call(translate.main, "--model", checkpoint, "--prefixes", tmp_path / "prefixes.en", stdin=INPUT.encode())
    assert ended.output.startswith("a child")
    assert ended.output.splitlines()[1:] == OUTPUT.splitlines()[1:]


def test_flags_change_the_search(call: Call, checkpoint: Path) -> None:
    def translated(*flags: object) -> str:
        return call(translate.main, "--model", checkpoint, *flags, stdin=INPUT.encode()).output

    short = translated("--max-length-ratio", 0.1, "--max-length-offset", 1)
    assert all(len(line.split()) <= 2 for line in short.splitlines())
    drawn = ["--kind", "sampling", "--temperature", 3]
    assert translated(*drawn, "--seed", 1) == translated(*drawn, "--seed", 1, "--window", 1)
    assert translated(*drawn, "--seed", 1) != translated(*drawn, "--seed", 2)
    assert translated("--kind", "greedy") == translated("--beam-size", 1)


def test_long_lines(call: Call, checkpoint: Path) -> None:
    text = f"{' '.join(SOURCES)}\n".encode()
    cut = call(translate.main, "--model", checkpoint, "--max-length", 5, stdin=text)
    assert (cut.code, cut.errors) == (0, "warning: line 1: truncated to 5 of its 100 pieces\n")
    whole = call(translate.main, "--model", checkpoint, "--max-length", 5, "--overlong", "translate", stdin=text)
    assert (whole.code, whole.errors) == (0, "")


def test_progress_is_for_people(call: Call, checkpoint: Path) -> None:
    shown = call(translate.main, "--model", checkpoint, "--progress", stdin=INPUT.encode())
    assert shown.output == OUTPUT
    assert "3 lines" in shown.errors


# Ensembles, runs and averages


def test_an_ensemble(call: Call, checkpoint: Path, tmp_path: Path, tokenizers: TokenizerPair) -> None:
    friend = save_small(tmp_path / "friend", tokenizers, seed=2)
    ended = call(translate.main, "--model", checkpoint, "--model", friend, stdin=INPUT.encode())
    assert ended == Ended(0, OUTPUT, "")


@pytest.fixture
def small_run(tmp_path: Path, tokenizers: TokenizerPair) -> Path:
    """A run with three checkpoints, of which the second is the best."""
    config = small_config()
    folder = RunFolder(tmp_path / "run")
    folder.open(config, fresh=False, read_config=lambda folder: config)
    for step in (1, 2, 3):
        translator = small_translator(config, tokenizers, seed=step, updates=0)
        folder.save(
            Snapshot(saved_tensors(translator), config, tokenizers, Origin(step=step, epoch=0)), is_best=step == 2
        )
    folder.close()
    return folder.path


def test_which_checkpoint_of_a_run(small_run: Path) -> None:
    names = [load_model(small_run, which, CPU).path.name for which in (None, "best", "last")]
    assert names == ["step-00000002", "step-00000002", "step-00000003"]


def test_an_average_translates(call: Call, small_run: Path, tmp_path: Path) -> None:
    ended = call(average.main, small_run, "--last", 2, "--output", tmp_path / "mean")
    assert ended == Ended(0, f"{tmp_path / 'mean'}: the mean of step-00000002, step-00000003\n", "")
    mean = load_model(tmp_path / "mean", None, CPU)
    assert mean.metadata.average_of == ["step-00000002", "step-00000003"]
    second, third = (load_model(small_run / "checkpoints" / f"step-{step:08d}", None, CPU) for step in (2, 3))
    for mine, one, other in zip(*(model.translator.parameters() for model in (mean, second, third)), strict=True):
        assert torch.allclose(mine, (one + other) / 2, atol=1e-7)
    assert call(translate.main, "--model", tmp_path / "mean", stdin=INPUT.encode()).code == 0

    assert_mistake(call(average.main, small_run, "--last", 4, "--output", tmp_path / "x"), "has 3 checkpoints, not 4")
    assert_mistake(call(average.main, small_run, "--output", tmp_path / "mean"), "is there already")
    assert_mistake(call(average.main, tmp_path / "mean", "--output", tmp_path / "x"), "name the run's folder")
    assert_mistake(call(average.main, tmp_path / "no", "--output", tmp_path / "x"), "no such checkpoint")


# Mistakes: one line, code 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--modle", "x"], "nmt-translate: unknown option --modle; did you mean --model?"),
        (["--model", "x", "--zzz=3"], "unknown option --zzz; nmt-translate --help lists them all"),
        ([], "the following arguments are required: --model"),
        (["--model"], "--model: expected one argument"),
        (["--model", "x", "--beam-size", "0"], "--beam-size: must be a whole number from 1 to 1,000, not '0'"),
        (["--model", "x", "--beam-size", "3.5"], "--beam-size: must be a whole number from 1 to 1,000, not '3.5'"),
        (["--model", "x", "--length-penalty", "nan"], "--length-penalty: must be a number from 0 to 100, not 'nan'"),
        (["--model", "x", "--kind", "baem"], "must be beam, greedy or sampling, not 'baem'; did you mean 'beam'?"),
        (["--model", "x", "--n-best", "-1"], "--n-best: "),
        (["--model", "x", "--format", "xml"], "--format: invalid choice: 'xml'"),
        (["--model", "x", "--device", "cpu", "--precision", "fp16"], "--precision: fp16 needs a GPU"),
        (["--model", "x", "--input", "no/file.de"], "no/file.de: no such file"),
        (["--model", "no/model"], "no/model: no such checkpoint"),
    ],
)
def test_mistakes_in_arguments(call: Call, arguments: list[str], message: str) -> None:
    assert_mistake(call(translate.main, *arguments), message)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--temperature", "2"], "--temperature: has no effect with --kind beam; set --kind sampling, or leave it out"),
        (["--min-length-ratio", "3"], "--min-length-ratio: is 3, above max_length_ratio (2)"),
        (["--n-best", "9"], "--beam-size: 3 hypotheses cannot give the 9 best; use a beam of at least 9"),
    ],
)
def test_mistakes_in_the_search(call: Call, checkpoint: Path, arguments: list[str], message: str) -> None:
    assert_mistake(call(translate.main, "--model", checkpoint, *arguments, stdin=b"hund\n"), message)


def test_no_alignments_without_attention(call: Call, tmp_path: Path, tokenizers: TokenizerPair) -> None:
    folder = save_small(tmp_path / "plain", tokenizers, attention="sutskever2014", updates=0)
    assert_mistake(call(translate.main, "--model", folder, "--alignments"), "has no attention to align by")
    found = json.loads(call(translate.main, "--model", folder, "--format", "jsonl", stdin=b"hund\n").output)
    assert found["hypotheses"][0]["alignments"] is None


def test_a_damaged_model(call: Call, checkpoint: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(checkpoint, tmp_path / "copy")
    (copy / "model.safetensors").write_bytes(b"")
    assert_mistake(call(translate.main, "--model", copy), "model.safetensors: damaged or exchanged")


def test_broken_utf8_is_named_and_the_lines_before_it_are_translated(call: Call, checkpoint: Path) -> None:
    text = f"{SOURCES[3]}\n\n".encode() + b"ein \xff hund\nnie gelesen\n"
    ended = call(translate.main, "--model", checkpoint, stdin=text)
    assert (ended.code, ended.output) == (2, f"{REFERENCES[3]}\n\n")
    assert ended.errors == "standard input:3: not UTF-8, byte 0xff at position 5 of the text\n"


def test_files_are_not_read_and_written_at_once(call: Call, checkpoint: Path, tmp_path: Path) -> None:
    file = tmp_path / "text"
    file.write_text(INPUT, encoding="utf-8")
    ended = call(translate.main, "--model", checkpoint, "--input", file, "--output", file)
    assert_mistake(ended, "would be read and written at once")
    assert file.read_text(encoding="utf-8") == INPUT
    ended = call(translate.main, "--model", checkpoint, "--output", tmp_path / "no" / "file")
    assert_mistake(ended, "cannot be written: No such file or directory")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk(call: Call, checkpoint: Path) -> None:
    ended = call(translate.main, "--model", checkpoint, "--output", "/dev/full", stdin=INPUT.encode())
    assert_mistake(ended, "/dev/full: cannot be written: No space left on device")
    with open("/dev/full", "wb") as full:
        process = start("nmt.cli.translate", "--model", checkpoint, stdin=-1, stdout=full.fileno(), stderr=-1)
        _, errors = process.communicate(b"hund\n", timeout=60)
    assert (process.returncode, errors) == (2, b"standard output: cannot be written: No space left on device\n")


# Flags and the model's own config


def given(*arguments: str) -> argparse.Namespace:
    parser = Parser("test", "")
    parser.add_search_options()
    return parser.parse_args(list(arguments))


def test_flags_go_before_the_config() -> None:
    base = SearchConfig(beam_size=7, length_penalty=0.3, allow_unknown=False)
    assert options.search_options(given(), base) == base
    found = options.search_options(given("--beam-size=2", "--allow-unknown"), base)
    assert found == SearchConfig(beam_size=2, length_penalty=0.3)


def test_every_key_is_a_flag() -> None:
    flags = set(vars(given())) - {"seed"}  # of sampling, which the section does not have
    assert {name.removeprefix("search.") for name in flags} == set(SearchConfig.model_fields)


def test_what_a_flag_makes_pointless_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    base = SearchConfig(kind="sampling", temperature=0.7, top_k=5)
    assert options.search_options(given("--kind", "beam"), base) == SearchConfig()
    assert [record.getMessage() for record in caplog.records] == [
        "search.temperature of the model's config does not go with --kind: left out",
        "search.top_k of the model's config does not go with --kind: left out",
    ]
    with pytest.raises(ConfigError, match=r"^--top-k: has no effect with --kind beam"):
        options.search_options(given("--kind", "beam", "--top-k", "3"), base)


# How a program ends


def ending_of(error: BaseException | None) -> object:
    def main() -> int:
        if error is not None:
            raise error
        return 0

    with pytest.raises(SystemExit) as caught:
        run(main)
    return caught.value.code


def test_codes(capsys: pytest.CaptureFixture[str]) -> None:
    assert ending_of(None) == 0
    assert ending_of(KeyboardInterrupt()) == 130
    assert capsys.readouterr().err == ""
    assert ending_of(DataError("a.txt:3: wrong", "b.txt: missing")) == 2
    assert capsys.readouterr().err == "a.txt:3: wrong\nb.txt: missing\n"
    with pytest.raises(ZeroDivisionError):
        run(lambda: 1 // 0)


def opened(path: str | Path) -> None:
    Path(path).open("wb").close()


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda folder: opened(folder), "{folder}: Is a directory"),
        (lambda folder: opened(folder / "no" / "file"), "{folder}/no/file: No such file or directory"),
        (lambda folder: opened(folder / ("n" * 300)), "{folder}/" + "n" * 300 + ": File name too long"),
        (lambda folder: opened(folder / "two\nlines" / "x"), "{folder}/two lines/x: No such file or directory"),
        (lambda folder: os.rename(folder / "a", folder / "b"), "{folder}/a -> {folder}/b: No such file or directory"),
        (
            lambda folder: Path("/dev/full").write_bytes(b"x"),
            "a file cannot be written: No space left on device; make room on the disk",
        ),
        (
            lambda folder: b"x" * (1 << 62),
            "out of memory; use a smaller network, batch or beam, or a machine with more memory (MemoryError)",
        ),
    ],
)
def test_a_refusal_of_the_system_is_one_line(
    act: Callable[[Path], object], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        run(lambda: int(bool(act(tmp_path))))
    assert (caught.value.code, capsys.readouterr().err) == (2, message.format(folder=tmp_path) + "\n")


def test_memory_that_pytorch_cannot_have_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        run(lambda: torch.empty(1 << 46).ndim)
    error = capsys.readouterr().err
    assert (caught.value.code, error.count("\n")) == (2, 1)
    assert error.startswith("out of memory; use a smaller network")
    assert "can't allocate memory" in error


def test_our_own_faults_keep_their_traceback() -> None:
    for fault in (
        FileNotFoundError(2, "No such file or directory", str(ROOT / "nmt" / "kernels" / "gone.c")),
        ConnectionResetError(104, "Connection reset by peer"),
        FileNotFoundError("without a file"),
    ):
        with pytest.raises(type(fault)):
            ending_of(fault)


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("nmt.cli.translate --model {model} <&-", "standard input: cannot be read: Bad file descriptor"),
        ("nmt.cli.translate --model {model} >&-", "standard output: cannot be written: Bad file descriptor"),
        ("nmt.cli.train --help > /dev/full", "standard output: cannot be written: No space left on device"),
        (
            "nmt.cli.train --config configs/quickstart.yaml --print-config > /dev/full",
            "standard output: cannot be written: No space left on device",
        ),
    ],
)
def test_standard_streams_that_are_closed_or_full(checkpoint: Path, command: str, message: str) -> None:
    command = f"echo hund | {shlex.quote(sys.executable)} -m {command.format(model=checkpoint)}"
    buffered = {**os.environ, "PYTHONUNBUFFERED": ""}
    ended = subprocess.run(["sh", "-c", command], cwd=ROOT, env=buffered, capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stderr) == (2, message + "\n")


def test_a_closed_standard_error_changes_nothing_else(checkpoint: Path) -> None:
    command = f"{shlex.quote(sys.executable)} -m nmt.cli.translate --model {checkpoint} 2>&-"
    given = INPUT.encode()
    ended = subprocess.run(["sh", "-c", command], cwd=ROOT, input=given, stdout=subprocess.PIPE, timeout=60)
    assert (ended.returncode, ended.stdout.decode()) == (0, OUTPUT)


def test_help_and_mistakes_do_not_wait_for_pytorch() -> None:
    check = (
        "import sys; sys.argv = ['nmt-translate', {!r}]\n"
        "from nmt.cli.translate import main\n"
        "try: main()\n"
        "finally: assert 'torch' not in sys.modules and 'sentencepiece' not in sys.modules"
    )
    for argument, code in (("--help", 0), ("--modle", 2)):
        command = [sys.executable, "-c", check.format(argument)]
        ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
        assert (ended.returncode, "Traceback" in ended.stderr) == (code, False)


def test_a_reader_that_leaves_is_no_mistake(checkpoint: Path) -> None:
    arguments = ["--model", checkpoint, "--window", 1]
    process = start("nmt.cli.translate", *arguments, stdin=-1, stdout=-1, stderr=-1)
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdin.write(SOURCES[3].encode() + b"\n" + b"hund\n" * 5000)
    process.stdin.flush()
    assert process.stdout.readline().decode() == REFERENCES[3] + "\n"
    process.stdout.close()
    assert process.wait(timeout=60) == 0
    assert process.stderr.read() == b""
    process.stderr.close()
    process.stdin.close()


def test_interactive_answers_each_line_and_ends_with_an_interrupt(checkpoint: Path) -> None:
    process = start("nmt.cli.translate", "--model", checkpoint, "--interactive", stdin=-1, stdout=-1, stderr=-1)
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    for source, reference in zip(SOURCES[:3], REFERENCES[:3], strict=True):
        process.stdin.write(f"{source}\n".encode())
        process.stdin.flush()
        assert process.stdout.readline().decode() == reference + "\n"
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 130
    assert process.stderr.read() == b""
    for stream in (process.stdin, process.stdout, process.stderr):
        stream.close()
