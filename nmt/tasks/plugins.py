"""Families of parts that a config selects by name, and plugins: files of a user that add parts to them.

A plugin is executed only if the user names its file: as an option of a command, in a call from Python, or in a YAML
that is trained. A checkpoint has the names and digests of its plugins, never their code. The parts of a plugin have
their names only in the configs that name it, so that models with different plugins can be in one process.
"""

from __future__ import annotations

import hashlib
import sys
import threading
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from nmt.checkpoint.metadata import SavedPlugin
from nmt.config import ExperimentConfig, Registry
from nmt.config.registry import Entry, PartOptions, Section
from nmt.data.readers.corpora import CORPORA
from nmt.data.readers.labelled import COLLECTIONS
from nmt.errors import CheckpointError, ConfigError, NmtError, reason, require_file
from nmt.model.attention import COVERAGES, SCORES, WINDOWS
from nmt.model.attention.normalizers import NORMALIZERS
from nmt.model.cells import CELLS
from nmt.model.context import CONTEXTS
from nmt.model.wiring import WIRINGS
from nmt.runtime import gather_objects, logger
from nmt.training.objectives import OBJECTIVES
from nmt.training.optimizers import OPTIMIZERS
from nmt.training.schedules import SCHEDULES

FAMILIES: Mapping[str, Registry[Any]] = {
    registry.family: registry
    for registry in (
        *(CORPORA, COLLECTIONS, CELLS, SCORES, WINDOWS, NORMALIZERS, WIRINGS, COVERAGES, CONTEXTS),
        *(OBJECTIVES, OPTIMIZERS, SCHEDULES),
    )
}
"""The parts that can be chosen, by the name of their family; without those of plugins."""

Parts = Mapping[str, Mapping[str, Entry[Any]]]
"""Parts by family and name."""


@dataclass(frozen=True)
class Plugin:
    """A file of the user that has been executed."""

    path: str
    source: bytes
    """What was executed; the file may have changed since."""
    sha256: str
    parts: Parts

    @property
    def name(self) -> str:
        """Name of the file, without its folder."""
        return Path(self.path).name


_executed: dict[str, Plugin] = {}
"""The plugins of this process by SHA-256, in the order in which they were named last."""
_lock = threading.Lock()
_reported: set[tuple[str, str]] = set()
"""Warnings that were given: the folder of a checkpoint, and the SHA-256 of a plugin."""


def load_plugin(path: str | Path) -> Plugin:
    """Executes a plugin, unless this process has executed a file with the same content.

    Raises `ConfigError`, with file and line, where the file cannot be read or executed, or registers no part.
    """
    try:
        require_file(path)
        source = Path(path).read_bytes()
    except (OSError, ValueError) as error:
        if isinstance(error, FileNotFoundError):
            where = "" if Path(path).is_absolute() else f" in {Path.cwd()}, where relative paths begin"
            raise ConfigError(f"{path}: no such file{where}") from None
        # A name with a NUL in it is a ValueError.
        why = reason(error) if isinstance(error, OSError) else "the name is not one that a file can have"
        raise ConfigError(f"{path}: cannot be read: {why}") from None
    return _execute_once(str(path), source)


def load_plugins(paths: Sequence[str | Path], argument: str = "--plugin") -> list[Plugin]:
    """Executes the plugins of an argument, which messages name; raises `ConfigError` with the problems of all."""
    plugins, problems = [], []
    for path in paths:
        try:
            plugins.append(load_plugin(path))
        except ConfigError as error:
            problems += [f"{argument}: {problem}" for problem in error.problems]
    if problems:
        raise ConfigError(*problems)
    return plugins


def plugin_sources() -> list[tuple[str, bytes]]:
    """Returns what `execute_plugins` needs in a worker process: paths and sources of this process's plugins."""
    return [(plugin.path, plugin.source) for plugin in _executed.values()]


def execute_plugins(sources: Sequence[tuple[str, bytes]]) -> None:
    """Executes the plugins of the process that started this one, so that it can unpickle their classes."""
    for path, source in sources:
        _execute_once(path, source)


def _execute_once(path: str, source: bytes) -> Plugin:
    digest = hashlib.sha256(source).hexdigest()
    with _lock:
        before = _executed.pop(digest, None)
        parts = _execute(path, source, f"nmt_plugin_{digest}") if before is None else before.parts
        _executed[digest] = plugin = Plugin(path, source, digest, parts)
    return plugin


def _execute(path: str, source: bytes, module_name: str) -> Parts:
    """Executes a file as a module of this name, and takes what it registers."""
    module = ModuleType(module_name)
    module.__file__ = str(Path(path).absolute())  # `inspect`, which finds the comments of options, keeps it
    before = {name: set(family) for name, family in FAMILIES.items()}
    sys.modules[module_name] = module  # dataclasses, pydantic and pickle look it up
    try:
        exec(compile(source, path, "exec", dont_inherit=True), module.__dict__)
    except (Exception, SystemExit) as error:
        for name, family in FAMILIES.items():
            family.take_new(before[name])
        del sys.modules[module_name]
        raise ConfigError(_problem_of(error, path)) from error
    taken = {name: family.take_new(before[name]) for name, family in FAMILIES.items()}
    parts = {name: new for name, new in taken.items() if new}
    if not parts:
        del sys.modules[module_name]
        raise ConfigError(f"{path}: registers no part; register one by a decorator, such as SCORES.register")
    return parts


def _problem_of(error: BaseException, path: str) -> str:
    """Returns file, line and message of an error in a plugin, on one line."""
    text = " ".join(str(error).split())
    if isinstance(error, SyntaxError) and error.filename == path:
        line, text = error.lineno, error.msg
    else:
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == path]
        line = lines[-1] if lines else None
    where = path if not line else f"{path}:{line}"
    if isinstance(error, NmtError):
        return f"{where}: {text}"
    return f"{where}: {type(error).__name__}{': ' if text else ''}{text}"


def with_plugins(plugins: Sequence[Plugin]) -> Mapping[str, Registry[Any]]:
    """Returns the families with the parts of these plugins.

    Raises `ConfigError` where two of them register a part of the same name.
    """
    families = dict(FAMILIES)
    owners: dict[tuple[str, str], Plugin] = {}
    for plugin in plugins:
        for name, parts in plugin.parts.items():
            for kind in parts:
                other = owners.setdefault((name, kind), plugin)
                if other.sha256 != plugin.sha256:
                    raise ConfigError(f"{name} {kind!r} is registered by {other.path} and by {plugin.path}; keep one")
            families[name] = families[name].with_parts(parts)
    return families


# Plugins of configs and checkpoints


def plugins_of(config: ExperimentConfig) -> tuple[SavedPlugin, ...]:
    """Returns the plugins whose parts the config has, for the metadata of its checkpoints."""
    used = {(type(part), part.kind) for part in _parts_in(config)}
    plugins = []
    for plugin in _executed.values():
        registered = [
            f"{family} {kind}"
            for family, parts in plugin.parts.items()
            for kind, entry in parts.items()
            if (entry.options, kind) in used
        ]
        if registered:
            plugins.append(SavedPlugin(name=plugin.name, sha256=plugin.sha256, parts=registered))
    return tuple(plugins)


def _parts_in(value: Any) -> Iterator[PartOptions]:
    if isinstance(value, PartOptions):
        yield value
    if isinstance(value, Section):
        value = [getattr(value, name) for name in type(value).model_fields]
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for each in value:
            yield from _parts_in(each)


def plugins_for(folder: Path, saved: Sequence[SavedPlugin]) -> list[Plugin]:
    """Returns the plugins of a checkpoint, among those that this process has executed.

    A file of the same name serves in place of one whose content is gone, with a warning: its SHA-256 also changes with
    a comment. Raises `CheckpointError` with a line for each plugin that is missing.
    """
    plugins, problems = [], []
    for each in saved:
        named = [plugin for plugin in _executed.values() if plugin.name == each.name]
        if each.sha256 in _executed:
            plugins.append(_executed[each.sha256])
        elif named:
            plugins.append(named[-1])
            _warn_of_change(folder, each, named[-1])
        else:
            problems.append(
                f"{folder}: needs the plugin {each.name} (SHA-256 {each.sha256[:12]}), which registers "
                f"{', '.join(each.parts)}; name its file with --plugin, or with plugins= in Python"
            )
    if problems:
        raise CheckpointError(*problems)
    return plugins


def _warn_of_change(folder: Path, saved: SavedPlugin, plugin: Plugin) -> None:
    if (key := (str(folder), plugin.sha256)) in _reported:
        return
    _reported.add(key)
    logger.warning(
        "%s was made with another %s (SHA-256 %s; %s has %s): if its mathematics has changed, results are wrong",
        *(folder, saved.name, saved.sha256[:12], plugin.path, plugin.sha256[:12]),
    )


def require_equal_plugins(config: ExperimentConfig) -> None:
    """Raises `ConfigError` unless all processes of a training have executed the same plugins."""
    for rank, others in enumerate(gather_objects(plugins_of(config))):
        for own, other in zip(plugins_of(config), others, strict=True):
            if own.sha256 != other.sha256:
                raise ConfigError(
                    f"plugins: {own.name} has the SHA-256 {own.sha256[:12]} here and {other.sha256[:12]} in process "
                    f"{rank}; give all processes the same file"
                )
