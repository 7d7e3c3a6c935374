"""Dockerfile and unit of systemd: what they name is there, and nmt-serve takes their options. Neither is run."""

from __future__ import annotations

import fnmatch
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from nmt.cli import serve

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parent.parent
UNIT = (ROOT / "docs" / "nmt-serve.service").read_text(encoding="utf-8")


@pytest.fixture
def instructions() -> list[tuple[str, str]]:
    """Instructions of the Dockerfile, lines joined, and their arguments."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    joined = re.sub(r"\\\n\s*", "", text)
    pairs = (line.split(maxsplit=1) for line in joined.splitlines() if line.strip())
    return [(word, arguments) for word, arguments in pairs]


def test_the_image_has_the_files_that_it_copies(instructions: list[tuple[str, str]]) -> None:
    rules = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()

    def is_sent(name: str) -> bool:
        """The last rule that fits decides."""
        fitting = [rule for rule in rules if fnmatch.fnmatch(name, rule.lstrip("!"))]
        return not fitting or fitting[-1].startswith("!")

    sources = [name for word, arguments in instructions if word == "COPY" for name in arguments.split()[:-1]]
    assert {"nmt", "pyproject.toml"} < set(sources)
    for name in sources:
        assert (ROOT / name).exists(), name
        assert is_sent(name), f"{name}: left out by .dockerignore"
    with (ROOT / "pyproject.toml").open("rb") as stream:
        project = tomllib.load(stream)["project"]
    assert {project["readme"], *project["license-files"]} <= set(sources)
    (extras,) = (found[1] for _, each in instructions if (found := re.search(r'"\.\[(.*?)\]"', each)))
    assert {"serve"} < set(extras.split(",")) <= set(project["optional-dependencies"])


def test_the_image_starts_the_server_without_rights(instructions: list[tuple[str, str]]) -> None:
    words = [word for word, _ in instructions]
    last = dict(instructions)
    command, *options = json.loads(last["ENTRYPOINT"])
    assert command == "nmt-serve"
    assert serve._parser().parse_args([*options, "--model", "x"]).host == "0.0.0.0"
    assert last["USER"] == "10001"
    assert words.index("USER") > max(at for at, word in enumerate(words) if word in ("RUN", "COPY"))
    python, flag, code = json.loads(last["HEALTHCHECK"].partition("CMD ")[2])
    assert (python, flag) == ("python", "-c")
    compile(code, "HEALTHCHECK", "exec")
    assert f"127.0.0.1:{serve._parser().get_default('port')}/health" in code
    assert last["EXPOSE"] == str(serve._parser().get_default("port"))


def test_the_unit_starts_the_server(tmp_path: Path) -> None:
    (line,) = re.findall(r"^ExecStart=(.*)$", UNIT, re.MULTILINE)
    command, *options = shlex.split(line)
    parsed = serve._parser().parse_args(options)
    assert Path(command).name == "nmt-serve"
    # Requests in progress are finished before systemd kills the server.
    (seconds,) = re.findall(r"^TimeoutStopSec=(\d+)$", UNIT, re.MULTILINE)
    assert int(seconds) > parsed.seconds + serve.Limits.body_seconds
    analyze, program = shutil.which("systemd-analyze"), shutil.which("true")
    if analyze is None or program is None:
        pytest.skip("systemd-analyze is not installed")
    unit = tmp_path / "nmt-serve.service"
    unit.write_text(UNIT.replace(command, program), encoding="utf-8")
    ended = subprocess.run([analyze, "verify", "--man=no", str(unit)], capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
