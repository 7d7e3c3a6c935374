"""The layout of the house: which module may import which, read from the source itself."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "nmt"
LONGEST_MODULE = 500

FLOORS = {
    "nmt.errors": 0,
    "nmt.concurrency": 1,
    "nmt.config": 1,
    "nmt.runtime": 2,
    "nmt.data.punctuation": 1,
    "nmt.data.sentences": 1,
    "nmt.data.readers": 2,
    "nmt.data.augmentation": 2,
    "nmt.data.cleaning": 2,
    "nmt.data.tokenizer": 3,
    "nmt.data.cache": 4,
    "nmt.data.lexicons": 5,
    "nmt.data.batching": 5,
    "nmt.kernels": 4,
    "nmt.model": 6,
    "nmt.checkpoint": 7,
    "nmt.evaluation": 7,
    "nmt.search": 8,
    "nmt.visualization": 8,
    "nmt.training": 9,
    "nmt.tasks": 10,
    "nmt.api": 11,
    "nmt.serve": 12,
    "nmt.cli": 13,
}
"""A room of the house is a module or a package with all that is in it; a room may use the rooms on lower floors."""

HALLWAYS = {"nmt", "nmt.data"}
"""Packages that only hold rooms: they import nothing of ours, but `nmt` hands on the names of its API."""


def modules_of(package: Path) -> dict[str, Path]:
    """The modules of a package by dotted name."""
    modules = {}
    for path in sorted(package.rglob("*.py")):
        parts = (package.name, *path.relative_to(package).with_suffix("").parts)
        modules[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return modules


def imports_of(name: str, path: Path, modules: dict[str, Path]) -> Iterator[tuple[int, str]]:
    """Line and dotted name of everything that a module imports, wherever in it the import stands."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, base] if base else above)
            for alias in node.names:  # `from nmt.data import readers` imports the module nmt.data.readers
                inner = f"{base}.{alias.name}"
                yield node.lineno, inner if inner in modules else base


def room_of(name: str) -> str | None:
    """The room that a module belongs to, or None."""
    parts = name.split(".")
    return next((room for end in range(len(parts), 0, -1) if (room := ".".join(parts[:end])) in FLOORS), None)


def problems_of(package: Path) -> list[str]:
    """Returns the problems of the layout, one line each."""
    modules = modules_of(package)
    problems = []
    for name, path in modules.items():
        where = path.relative_to(package.parent)
        source = path.read_text(encoding="utf-8")
        if not ast.get_docstring(ast.parse(source)):
            problems.append(f"{where}: has no docstring")
        if (lines := source.count("\n")) > LONGEST_MODULE:
            problems.append(f"{where}: {lines} lines, more than {LONGEST_MODULE}: it has two responsibilities")
        room = room_of(name)
        if room is None and name not in HALLWAYS:
            problems.append(f"{where}: {name} is on no floor; give it one in {Path(__file__).name}")
            continue
        for line, imported in imports_of(name, path, modules):
            if room == "nmt.config" and imported.split(".")[0] == "torch":
                problems.append(f"{where}:{line}: the configuration imports torch")
            if imported.split(".")[0] != package.name:
                continue
            other = room_of(imported)
            if other is None:
                if imported not in HALLWAYS:
                    problems.append(f"{where}:{line}: {imported} is on no floor")
            elif room is None and (name, other) != ("nmt", "nmt.api"):
                problems.append(f"{where}:{line}: {name} only holds other modules, yet imports {imported}")
            elif room is not None and other != room and FLOORS[other] >= FLOORS[room]:
                problems.append(
                    f"{where}:{line}: {room} (floor {FLOORS[room]}) imports {imported} (floor {FLOORS[other]})"
                )
    return problems


REPEATED = {"__init__", "__main__", "base", "reference", "native", "triton", "setup"}
"""Names of several modules: members of one family that stand side by side, each in a package of its own."""

IMPLEMENTATIONS = {"reference", "native", "triton", "setup"}
"""Names of modules that implement one interface, so that their functions share names: an operation, or a task."""


API = "nmt.api"
"""Its functions have the names of those that they run: `nmt.train` runs `nmt.tasks.training.train`."""


def circles_of(package: Path) -> list[str]:
    """Returns the modules that import each other, directly or in a circle; imports for type checking count.

    A name that a package hands on in its `__init__` counts as imported from the module that defines it.
    """
    modules = modules_of(package)
    handed_on = {
        f"{name}.{alias.asname or alias.name}": node.module
        for name, path in modules.items()
        if path.name == "__init__.py"
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.ImportFrom) and node.module
        for alias in node.names
    }
    graph: dict[str, set[str]] = {name: set() for name in modules}
    for name, path in modules.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module:
                for alias in node.names:
                    inner = f"{node.module}.{alias.name}"
                    graph[name].add(inner if inner in modules else handed_on.get(inner, node.module))
        graph[name] &= set(modules) - {name}

    def reached(start: str) -> set[str]:
        seen: set[str] = set()
        waiting = list(graph[start])
        while waiting:
            if (name := waiting.pop()) not in seen:
                seen.add(name)
                waiting += graph[name]
        return seen

    reach = {name: reached(name) for name in graph}
    return [name for name in graph if name in reach[name]]


def repeated_names_of(package: Path) -> list[str]:
    """Returns the module names, classes and functions that stand for several things, a line each."""
    where: dict[str, list[str]] = {}
    modules = modules_of(package)
    for name, path in modules.items():
        if path.stem not in REPEATED:
            where.setdefault(f"module {path.stem}", []).append(name)
        if path.stem in IMPLEMENTATIONS or room_of(name) == API:
            continue
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
                where.setdefault(node.name, []).append(name)
    where.pop("main", None)  # of each command
    return [f"{name}: {', '.join(places)}" for name, places in sorted(where.items()) if len(places) > 1]


def test_no_modules_import_each_other_in_a_circle() -> None:
    assert circles_of(PACKAGE) == []


def test_every_name_stands_for_one_thing() -> None:
    assert repeated_names_of(PACKAGE) == []


def test_no_docstring_begins_with_what() -> None:
    """A docstring begins with a verb or with the field's name of the thing."""
    riddles = []
    for path in modules_of(PACKAGE).values():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                first = (ast.get_docstring(node) or "").partition("\n")[0]
                if first.startswith("What "):
                    riddles.append(f"{path}: {first}")
    assert riddles == []


def test_circles_and_repeated_names_are_found(tmp_path: Path) -> None:
    house = tmp_path / "nmt"
    files = {
        "__init__.py": "",
        "errors.py": "class Mistake: pass",
        "tape/__init__.py": "from nmt.tape.values import Value",
        "tape/values.py": "from typing import TYPE_CHECKING\nfrom nmt import errors\nclass Value: pass",
        "tape/replay.py": "from nmt.tape import Value",
        "gru/reference.py": "def step(): pass",
        "lstm/reference.py": "def step(): pass",
    }
    for name, body in files.items():
        (house / name).parent.mkdir(parents=True, exist_ok=True)
        (house / name).write_text(body)
    assert (circles_of(house), repeated_names_of(house)) == ([], [])

    with (house / "tape/values.py").open("a") as file:
        file.write("\nif TYPE_CHECKING:\n    from nmt.tape.replay import Graph\n")
    assert circles_of(house) == ["nmt.tape.replay", "nmt.tape.values"]

    (house / "gru/errors.py").write_text("class Value: pass")
    assert repeated_names_of(house) == [
        "Value: nmt.gru.errors, nmt.tape.values",
        "module errors: nmt.errors, nmt.gru.errors",
    ]


def test_modules_import_only_what_is_on_lower_floors() -> None:
    assert problems_of(PACKAGE) == []


def test_reading_a_configuration_does_not_load_torch() -> None:
    check = "import sys, nmt.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], cwd=PACKAGE.parent, timeout=60).returncode == 0


def test_no_module_needs_what_windows_lacks() -> None:
    """Imports every module without these libraries of Python. Other packages keep them: their imports are guarded."""
    check = """
import builtins, importlib, pkgutil
import nmt
whole = builtins.__import__
def importing(name, globals=None, *rest, **more):
    if name in ("fcntl", "grp", "pwd", "resource", "termios") and globals["__name__"].startswith("nmt."):
        raise ModuleNotFoundError(f"{globals['__name__']} imports {name}")
    return whole(name, globals, *rest, **more)
builtins.__import__ = importing
for module in pkgutil.walk_packages(nmt.__path__, "nmt."):
    if not module.name.endswith(".triton"):  # Triton's kernels: Linux only
        importlib.import_module(module.name)
"""
    done = subprocess.run([sys.executable, "-c", check], cwd=PACKAGE.parent, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("module", "source", "problem"),
    [
        ("model/cells.py", "from nmt.training.trainer import Trainer", "nmt.model (floor 6) imports nmt.training"),
        ("search.py", "import nmt.training", "nmt.search (floor 8) imports nmt.training (floor 9)"),
        ("data/readers/lines.py", "from nmt.data import tokenizer", "nmt.data.readers (floor 2) imports nmt.data.tok"),
        ("data/readers/lines.py", "from .. import tokenizer", "nmt.data.readers (floor 2) imports nmt.data.tok"),
        ("errors.py", "def late():\n    from nmt import runtime", "nmt.errors (floor 0) imports nmt.runtime (floor 2)"),
        ("config/load.py", "from torch import nn", "the configuration imports torch"),
        ("data/__init__.py", "from nmt.data.readers import lines", "nmt.data only holds other modules"),
        ("helpers.py", "", "nmt.helpers is on no floor"),
        ("evaluation.py", "import nmt.helpers", "nmt.helpers is on no floor"),
        ("evaluation.py", "\n" * LONGEST_MODULE, f"{LONGEST_MODULE + 2} lines"),
    ],
)
def test_the_rule_finds_what_breaks_it(tmp_path: Path, module: str, source: str, problem: str) -> None:
    house = tmp_path / "nmt"
    sound = {
        "__init__.py": "",
        "errors.py": "import json",
        "runtime.py": "from nmt.errors import NmtError\nimport torch",
        "data/__init__.py": "",
        "data/tokenizer.py": "import nmt.errors",
        "data/readers/__init__.py": "from nmt.data.readers.lines import read_lines",
        "data/readers/lines.py": "from ...errors import DataError",
        "evaluation.py": "from nmt.data.readers import read_lines\nfrom nmt import runtime",
        "training/trainer.py": "from nmt.model import cells",
        "model/cells.py": "from nmt import errors",
    }

    def write(name: str, body: str) -> None:
        (house / name).parent.mkdir(parents=True, exist_ok=True)
        (house / name).write_text(f'"""Docstring."""\n{body}\n')

    for name, body in sound.items():
        write(name, body)
    assert problems_of(house) == []
    write(module, source)
    assert len(problems_of(house)) == 1
    assert problems_of(house)[0].startswith(f"nmt/{module}:")
    assert problem in problems_of(house)[0]


def test_a_module_without_docstring_is_found(tmp_path: Path) -> None:
    (tmp_path / "nmt").mkdir()
    (tmp_path / "nmt" / "errors.py").write_text("import json\n")
    assert problems_of(tmp_path / "nmt") == ["nmt/errors.py: has no docstring"]


def string_patches(source: str) -> list[int]:
    """The lines that patch something of `nmt` or `scripts` by its dotted name in a string."""
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call) and node.args]
    names = [(call, ast.unparse(call.func).rpartition(".")[2], ast.unparse(call.args[0])) for call in calls]
    patches = [(call, target) for call, name, target in names if name in ("setattr", "delattr", "patch")]
    return [call.lineno for call, target in patches if target.lstrip("f")[1:].startswith(("nmt.", "scripts."))]


def test_no_test_patches_by_a_string() -> None:
    assert string_patches("monkeypatch.setattr('nmt.model.NAME', 1)\npatch(f'scripts.{name}')") == [1, 2]
    assert string_patches("monkeypatch.setattr(nmt.model, 'NAME', 1)") == []
    tests = Path(__file__).parent
    patched = {str(path): string_patches(path.read_text(encoding="utf-8")) for path in tests.rglob("*.py")}
    assert {path: lines for path, lines in patched.items() if lines} == {}
