"""The README's commands: every script, command, option and file that they name exists."""

from __future__ import annotations

import ast
import contextlib
import functools
import importlib
import io
import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from nmt.cli import evaluate, score, train, translate
from tests.support.commands import Call

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parent.parent
SHELL_BLOCKS = {"sh", "bash", "shell", "console"}
NOT_OURS = {
    "source",
    "curl",
    "docker",
    "cd",
    "git",
    "echo",
    "cat",
    "zcat",
    "head",
    "tail",
    "less",
    "tensorboard",
    "pip",
    "paste",
    "sort",
    "awk",
    "cut",
    "python",
    "ruff",
    "mypy",
    "pytest",
}
KEPT_FILES = {"configs", "scripts", "tests", "docs", "nmt"}
"""Folders whose files are all in the checkout; what lies under runs/ and most of data/ comes later."""


def commands_of(markdown: str) -> Iterator[list[str]]:
    """The words of every single command in the shell blocks: pipes, lists and comments taken apart."""
    for language, block in re.findall(r"^```(\w*)[^\n]*\n(.*?)^```", markdown, re.MULTILINE | re.DOTALL):
        if language not in SHELL_BLOCKS:
            continue
        block = re.sub(r"<< *'(\w+)'\n.*?^\1$", "", block, flags=re.MULTILINE | re.DOTALL)  # here-documents
        for line in block.replace("\\\n", " ").splitlines():
            if language == "console":
                if not line.startswith("$ "):
                    continue
                line = line[2:]
            lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;<>()")
            lexer.whitespace_split = True
            words: list[str] = []
            redirected = False
            for word in [*lexer, ";"]:
                if set(word) <= set("|&;()"):
                    if words:
                        yield words
                    words = []
                elif set(word) <= set("<>"):
                    redirected = True
                elif redirected:  # the file of `> FILE`
                    redirected = False
                else:
                    words.append(word)


def entry_points() -> dict[str, str]:
    """The commands that pyproject.toml installs: name -> `module:function`."""
    with (ROOT / "pyproject.toml").open("rb") as stream:
        scripts: dict[str, str] = tomllib.load(stream)["project"]["scripts"]
    return scripts


class Captured(io.TextIOWrapper):
    """A standard stream in memory."""

    def __init__(self) -> None:
        self.bytes = io.BytesIO()
        super().__init__(self.bytes, encoding="utf-8")

    def text(self) -> str:
        self.flush()
        return self.bytes.getvalue().decode()


@functools.cache
def run(command: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs a command of ours, installed or not, in this process, or a Python script of ours in another."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", "200")
        patch.chdir(ROOT)
        if command not in entry_points():
            words = [sys.executable, str(ROOT / command), *arguments]
            return subprocess.run(words, capture_output=True, text=True, timeout=120)
        module, _, function = entry_points()[command].partition(":")
        patch.setattr(sys, "argv", [command, *arguments])
        output, errors = Captured(), Captured()
        with (
            contextlib.redirect_stdout(output),
            contextlib.redirect_stderr(errors),
            pytest.raises(SystemExit) as ended,
        ):
            getattr(importlib.import_module(module), function)()
        return subprocess.CompletedProcess(command, int(ended.value.code or 0), output.text(), errors.text())


def has_option(command: str, option: str) -> bool:
    result = run(command, "--help")
    assert result.returncode == 0, result.stderr
    return re.search(rf"(?<![\w-]){re.escape(option)}(?![\w-])", result.stdout) is not None


def is_python(script: Path) -> bool:
    return "python" in script.read_text(encoding="utf-8").partition("\n")[0]


def paths_of(words: list[str]) -> list[str]:
    """The words, or values of options, that name a file of the checkout."""
    values = [word.rpartition("=")[2] if word.startswith("--") else word for word in words]
    return [value for value in values if "/" in value and value.partition("/")[0] in KEPT_FILES]


OWN_CONFIG = "my.yaml"
"""The name that pages give to a YAML of the reader's own, which they show."""


@contextlib.contextmanager
def own_config(markdown: str) -> Iterator[Path]:
    """A file with the YAML that a page shows for `my.yaml`; its path leads nowhere if the page shows none."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / OWN_CONFIG
        if shown := re.search(r"^(run: .*?)^(?:END|```)$", markdown, re.MULTILINE | re.DOTALL):
            path.write_text(with_plugin(shown[1], markdown, Path(folder)), encoding="utf-8")
        yield path


def with_plugin(yaml: str, markdown: str, folder: Path) -> str:
    """The YAML with the path of the plugin that the page shows, written into the folder."""
    if named := re.search(r"^plugins: \[(\S+)\]$", yaml, re.MULTILINE):
        code = re.search(r"^```python\n(.*?)^```", markdown, re.MULTILINE | re.DOTALL)
        assert code is not None
        (folder / named[1]).write_text(code[1], encoding="utf-8")
        return yaml.replace(named[1], str(folder / named[1]))
    return yaml


def problems_of(markdown: str) -> list[str]:
    """Commands, options, keys and files that the commands name and that do not exist, one a line."""
    problems = []
    for words in commands_of(markdown):
        while words and re.fullmatch(r"\w+=.*", words[0]):  # variables set for one command
            words = words[1:]
        if not words:
            continue
        command, *arguments = words
        line = " ".join(words)
        if command == "torchrun":  # torchrun [its options] -m nmt.cli.train [ours]
            module = arguments[arguments.index("-m") + 1] if "-m" in arguments else ""
            ours = [name for name, target in entry_points().items() if target == f"{module}:main"]
            if not ours:
                problems.append(f"{line}: torchrun needs -m and the module of a command")
                continue
            command, arguments = ours[0], arguments[arguments.index("-m") + 2 :]
        script = ROOT / command
        if command.startswith("scripts/"):
            if not os.access(script, os.X_OK):
                problems.append(f"{line}: {command} is not an executable file")
                continue
        elif command not in entry_points() and command not in NOT_OURS:
            problems.append(f"{line}: {command} is neither a command of pyproject.toml nor a well-known one")
            continue
        if command in entry_points() or (command.startswith("scripts/") and is_python(script)):
            for option in (word.partition("=")[0] for word in arguments if word.startswith("--")):
                if not has_option(command, option):
                    problems.append(f"{line}: {command} has no option {option}")
        missing = [path for path in paths_of(words) if not (ROOT / path).exists()]
        problems += [f"{line}: {path} does not exist" for path in missing]
        if command == "nmt-train" and "..." not in arguments and not missing:
            settings = [word for word in arguments if word not in ("--check", "--fresh", "--print-config")]
            with own_config(markdown) as path:
                settings = [str(path) if word == OWN_CONFIG else word for word in settings]
                result = run(command, *settings, "--print-config")  # reads --config and every --set, trains nothing
            if result.returncode:
                problems.append(f"{line}: {result.stderr.strip()}")
    return problems


def test_everything_that_the_commands_name_exists() -> None:
    assert problems_of((ROOT / "README.md").read_text(encoding="utf-8")) == []
    for page in (ROOT / "data" / "README.md", *(ROOT / "docs").glob("*.md")):
        assert problems_of(page.read_text(encoding="utf-8")) == [], page.name


def test_every_command_can_be_imported() -> None:
    for target in entry_points().values():
        module, _, function = target.partition(":")
        assert callable(getattr(importlib.import_module(module), function))


def layout_of(markdown: str) -> list[str]:
    """The lines of the README's tree that describe `nmt` and its packages: `path: text` each."""
    tree = markdown.partition("## Layout\n")[2].split("```")[1]
    lines, parents = [], [""] * 9
    for indent, name, text in re.findall(r"^( *)(\w+)/ +(.*)$", tree, re.MULTILINE):
        depth = len(indent) // 2
        parents[depth:] = [name] + [""] * (8 - depth)
        if parents[0] == "nmt":
            lines.append(f"{'/'.join(parents[: depth + 1])}: {text}")
    return lines


def test_the_layout_has_a_line_for_each_package_equal_to_its_docstring() -> None:
    summaries = []
    for path in (ROOT / "nmt").rglob("__init__.py"):
        docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        summaries.append(f"{path.parent.relative_to(ROOT).as_posix()}: {docstring.splitlines()[0].removesuffix('.')}")
    assert sorted(layout_of((ROOT / "README.md").read_text(encoding="utf-8"))) == sorted(summaries)
    assert [line for line in summaries if len(line.partition(": ")[2]) > 75] == []


PAGES = [ROOT / "README.md", ROOT / "data" / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_the_links_lead_somewhere(page: Path) -> None:
    """Every relative link names a file, and every anchor a heading of that file as GitHub names it."""
    for path, anchor in re.findall(r"\]\(([^)#\s]*)(?:#([^)\s]*))?\)", page.read_text(encoding="utf-8")):
        if "://" in path:
            continue
        target = page.parent / path if path else page
        assert target.exists(), path
        if anchor:
            assert anchor in anchors(target.read_text(encoding="utf-8")), f"{path}#{anchor}"


def anchors(markdown: str) -> set[str]:
    """The anchors of a page's headings: lower case, without punctuation, hyphens for spaces."""
    headings = re.findall(r"^#+ (.*)$", markdown, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize(
    ("block", "problem"),
    [
        ("```sh\nscripts/fetch\n```", "scripts/fetch is not an executable file"),
        ("```sh\necho Hund | nmt-trian\n```", "nmt-trian is neither a command"),
        ("```sh\nscripts/fetch_data --lsit\n```", "scripts/fetch_data has no option --lsit"),
        ("```sh\nscripts/setup && scripts/fetch_data x --lis\n```", "scripts/fetch_data has no option --lis"),
        ("```console\n$ cat \\\n  configs/no.yaml  # comment\nunbekannt\n```", "configs/no.yaml does not exist"),
        ("```sh\nnmt-train --config configs/quickstart.yaml --set training.max_epoch=2\n```", "training.max_epoch"),
        ("```sh\nOMP_NUM_THREADS=1 torchrun -m nmt.cli.trian\n```", "torchrun needs -m"),
        ("```sh\nnmt-train --config my.yaml\n```", "No such file"),
        ("```yaml\nrun: runs/my\ndata: {}\n```\n```sh\nnmt-train --config my.yaml\n```", "data.train"),
    ],
)
def test_the_check_finds_what_does_not_exist(block: str, problem: str) -> None:
    assert len(problems_of(block)) == 1
    assert problem in problems_of(block)[0]


def test_the_check_passes_over_what_is_not_a_command() -> None:
    sound = "```sh\nscripts/fetch_data --list | head -n 3 > list.txt  # nmt-nothing\n```\n```python\nnmt-nothing\n```\n"
    assert list(commands_of(sound)) == [["scripts/fetch_data", "--list"], ["head", "-n", "3"]]
    assert problems_of(sound) == []


def test_no_message_installs_a_package_of_somebody_else() -> None:
    """On the package index the name `nmt` belongs to another project; ours is `nmt-attention`."""
    with (ROOT / "pyproject.toml").open("rb") as stream:
        project = tomllib.load(stream)["project"]
    assert project["name"] == "nmt-attention"
    extras = [word for extra in project["optional-dependencies"].values() for word in extra if word.startswith("nmt")]
    assert extras == ["nmt-attention[plots,sentences,languages,hub,onnx,serve]"]
    texts = [path for name in KEPT_FILES for path in (ROOT / name).rglob("*") if path.suffix in {"", ".py", ".md"}]
    for path in [ROOT / "README.md", ROOT / "data" / "README.md", *texts]:
        if path.is_file():
            wrong = re.findall(r"pip install +(?:-\S+ +)*['\"]?nmt(?:\[[^\]]*\])?(?![\w-])", path.read_text("utf-8"))
            assert not wrong, f"{path}: {wrong}"


def test_the_page_about_own_data_leads_to_a_translation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Call
) -> None:
    page = (ROOT / "docs" / "own_data.md").read_text(encoding="utf-8")
    blocks = [block for language, block in re.findall(r"^```(\w+)\n(.*?)^```", page, re.M | re.S) if language == "sh"]
    assert len(blocks) == 8
    source, target = (
        (ROOT / f"data/quickstart/train.{code}").read_text(encoding="utf-8").splitlines() for code in ("en", "de")
    )
    (tmp_path / "my.tsv").write_text("".join(f"{a}\t{b}\n" for a, b in zip(source[:500], target[:500], strict=True)))
    (tmp_path / "test.en").write_text("\n".join(source[500:504]))
    (tmp_path / "test.de").write_text("\n".join(target[500:504]))
    monkeypatch.chdir(tmp_path)
    subprocess.run(["sh", "-c", blocks[0]], check=True)
    # A small network and few updates; what the page says stays.
    small = "data.validation.split=50 tokenizer.vocabulary_size=200 model.embedding_size=16 training.max_steps=3"
    small += " model.encoder.hidden_size=16 model.decoder.hidden_size=16 runtime.threads=1 validation.sentences=2"
    modules = {"nmt-train": train, "nmt-translate": translate, "nmt-eval": evaluate, "nmt-score": score}
    for line in "".join(blocks[1:]).splitlines():
        [*given, words] = commands_of(f"```sh\n{line}\n```")
        if words[0] not in modules:  # tools of the system
            subprocess.run(["sh", "-c", line], check=True)
            continue
        extra = [word for setting in small.split() for word in ("--set", setting)] if words[0] == "nmt-train" else []
        text = f"{given[0][1]}\n" if given else ""
        ended = call(modules[words[0]].main, *words[1:], *extra, stdin=text.encode())
        assert ended.code == 0, ended.errors
        if "> " in line:
            Path(line.rpartition("> ")[2]).write_text(ended.output)
        if words[0] == "nmt-translate":
            assert ended.output.count("\n") == 1
        if "--check" not in words and words[0] == "nmt-train":
            assert "held out for validation" in (tmp_path / "runs/my/train.log").read_text()
        if words[0] == "nmt-eval":
            assert "BLEU" in ended.output
    assert (tmp_path / "scores.txt").read_text().count("\n") == 500
