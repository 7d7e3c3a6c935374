"""Streams: what nmt-translate, nmt-classify, nmt-align and nmt-score read from standard input and files."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence

from hypothesis import strategies as st

from scripts.fuzzing import values
from scripts.fuzzing.case import Case, Command
from scripts.fuzzing.server import CLOSED

Judge = Callable[[bytes], "str | None"]

TRANSLATE_OPTIONS = (
    *(
        ["--documents"],
        ["--scores"],
        ["--alignments"],
        ["--alignments", "pieces"],
        ["--interactive"],
        ["--window", "2"],
    ),
    *(["--max-length", "3"], ["--overlong", "translate"], ["--kind", "greedy"], ["--kind", "sampling", "--top-k", "2"]),
    *(["--beam-size", "1"], ["--beam-size", "50"], ["--no-repeat-ngram", "1"], ["--max-length-ratio", "0.1"]),
    *(["--precision", "int8"], ["--precision", "bf16"], ["--min-length-ratio", "2"], ["--no-allow-unknown"]),
    *(["--length-penalty", "1e300"], ["--coverage-penalty", "0.5"], ["--batch-tokens", "1"], ["--threads", "2"]),
    *(["--prefixes", "prefixes"], ["--plot", "page.html"], ["--checkpoint", "last"], ["--model", "translator"]),
)
CLASSIFY_OPTIONS = (
    *(["--sentences", "tab"], ["--sentences", "split"], ["--interactive"], ["--window", "2"], ["--precision", "bf16"]),
    *(["--plot", "page.html"], ["--checkpoint", "last"]),
)
LONG = 3000
"""Bytes of a text that is not combined with `--overlong translate`."""
ALIGN_OPTIONS = (
    *(["--unit", "pieces"], ["--linking", "argmax"], ["--batch-tokens", "1"], ["--max-length", "3"]),
    *(["--overlong", "translate"], ["--precision", "bf16"]),
)
SCORE_OPTIONS = (
    *(["--per", "character"], ["--format", "jsonl"], ["--window", "2"], ["--batch-tokens", "1"], ["--max-length", "3"]),
    *(["--overlong", "translate"], ["--precision", "bf16"], ["--model", "translator"]),
)


def lines_of(text: bytes) -> int:
    """Lines of a text: they end at a line feed and nowhere else; the last one need not end."""
    return text.count(b"\n") + (not text.endswith(b"\n") and text != b"")


def expects_lines(lines: int) -> Judge:
    """The output has so many lines."""
    return lambda output: None if lines_of(output) == lines else "wrong number of lines"


def expects_objects(lines: int) -> Judge:
    """The output is a JSON object for each line, numbered from 1."""

    def judge(output: bytes) -> str | None:
        found = output.split(b"\n")[:-1]
        if len(found) != lines:
            return "wrong number of lines"
        try:
            numbers = [json.loads(line)["line"] for line in found]
        except (ValueError, KeyError, TypeError):
            return "a line of the output is not the JSON object of its line"
        return None if numbers == list(range(1, lines + 1)) else "wrong numbers of lines"

    return judge


def expects_n_best(lines: int, n_best: int) -> Judge:
    """The output has 1 to `n_best` lines for each line, each begun by its number, from 0."""

    def judge(output: bytes) -> str | None:
        try:
            numbers = [int(line.partition(b" ||| ")[0]) for line in output.split(b"\n")[:-1]]
        except ValueError:
            return "a line of the output does not begin with a number"
        counts = {number: numbers.count(number) for number in range(lines)}
        if numbers != sorted(numbers) or len(numbers) != sum(counts.values()):
            return "wrong numbers of lines"
        return None if all(1 <= count <= n_best for count in counts.values()) else "wrong number of lines"

    return judge


def strategy(models: Mapping[str, Mapping[str, bytes]]) -> st.SearchStrategy[Case]:
    """Cases of streams; `models` are the files of the runs called `translator` and `classifier`."""

    def joined(line: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
        return st.builds(
            lambda lines, end, final: end.join(lines) + (end if final else b""),
            st.lists(line, max_size=8),
            st.sampled_from((b"\n", b"\n", b"\n", b"\r\n", b"\n\n")),
            st.booleans(),
        )

    text = st.one_of(
        joined(values.valid_texts),
        joined(values.valid_texts),
        joined(values.valid_texts),
        joined(values.hostile_texts),
        st.binary(max_size=60),
        st.sampled_from((b"x" * 1_000_000, b"a " * 100_000, b"\n" * 3000, b"a\n" * 300, b"a\tb\tc" * 3000)),
    )
    outputs = st.sampled_from(("stdout", "stdout", "stdout", "stdout", "stdout", "stdout", "/dev/full", CLOSED))

    def options(choices: Sequence[list[str]]) -> st.SearchStrategy[list[str]]:
        return st.lists(st.sampled_from(choices), max_size=3).map(
            lambda found: [part for given in found for part in given]
        )

    files = {f"{name}/{path}": content for name, run in models.items() for path, content in run.items()}
    translate = st.builds(_translate, text, text, options(TRANSLATE_OPTIONS), st.integers(1, 3), st.booleans(), outputs)
    classify = st.builds(_classify, text, options(CLASSIFY_OPTIONS), st.booleans(), outputs)
    align = st.builds(_sides, st.just("align"), text, text, options(ALIGN_OPTIONS), outputs)
    score = st.builds(_sides, st.just("score"), text, text, options(SCORE_OPTIONS), outputs)
    return st.one_of(translate, translate, classify, align, score).map(
        lambda case: Case({**files, **case.files}, case.commands, case.note)
    )


def _translate(text: bytes, prefixes: bytes, options: list[str], n_best: int, as_json: bool, stdout: str) -> Case:
    lines = lines_of(text)
    arguments = ["--model", "translator", *options, "--n-best", str(n_best)]
    judge = expects_n_best(lines, n_best) if n_best > 1 else expects_lines(lines)
    if as_json:
        arguments += ["--format", "jsonl"]
        judge = expects_objects(lines)
    return _case("translate", arguments, {"stdin": text, "prefixes": prefixes}, judge, stdout)


def _classify(text: bytes, options: list[str], as_json: bool, stdout: str) -> Case:
    arguments = ["--model", "classifier", *options, *(["--format", "jsonl"] if as_json else [])]
    judge = expects_objects(lines_of(text)) if as_json else expects_lines(lines_of(text))
    return _case("classify", arguments, {"stdin": text}, judge, stdout)


def _sides(program: str, source: bytes, target: bytes, options: list[str], stdout: str) -> Case:
    # Random texts seldom have equally many lines: the shorter one is filled up.
    missing = lines_of(source) - lines_of(target)
    if 0 < missing < 1000:
        target = (target if target.endswith(b"\n") or not target else target + b"\n") + b"a\n" * missing
    arguments = ["--model", "translator", "--source", "source", "--target", "target", *options]
    files = {"source": source, "target": target, "stdin": b""}
    return _case(program, arguments, files, expects_lines(lines_of(source)), stdout)


def _case(program: str, arguments: list[str], files: Mapping[str, bytes], judge: Judge, stdout: str) -> Case:
    if "--overlong" in arguments and max(map(len, files.values())) > LONG:
        # To take a line of 200,000 pieces whole takes minutes, as it was asked for.
        arguments = [argument for argument in arguments if argument not in ("--overlong", "translate")]
    # What cannot be written is a mistake, unless nothing is written.
    full = _accepts_full if files["stdin"] or files.get("source") else None
    checked = {"stdout": judge, "/dev/full": full, CLOSED: None}[stdout]
    note = "; ".join(f"{name}: {content[:60]!r} ({len(content)} bytes)" for name, content in files.items())
    return Case(files, [Command(program, arguments, "stdin", stdout, checked)], note)


def _accepts_full(output: bytes) -> str:
    return "exit code 0, though the disk is full"
