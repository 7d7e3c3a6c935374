"""What two configs do not agree on."""

from __future__ import annotations

from typing import Any

from nmt.config.registry import PartOptions, Section


def difference(old: Section, new: Section) -> dict[str, tuple[Any, Any]]:
    """Dotted paths that differ -> (value in `old`, value in `new`), in schema order.

    Where a part was replaced by another one, its `kind` differs and the options are not compared; a list of
    another length differs as a whole; an entry that only one has is None in the other.
    """
    assert type(old) is type(new)
    return _of_values(old, new, "")


def _of_values(old: Any, new: Any, path: str) -> dict[str, tuple[Any, Any]]:
    if old == new:
        return {}
    if isinstance(old, PartOptions) and isinstance(new, PartOptions) and old.kind != new.kind:
        return {f"{path}.kind": (old.kind, new.kind)}
    if isinstance(old, Section) and type(old) is type(new):
        pairs = {name: (getattr(old, name), getattr(new, name)) for name in type(old).model_fields}
    elif isinstance(old, dict) and isinstance(new, dict):
        pairs = {name: (old.get(name), new.get(name)) for name in [*old, *(key for key in new if key not in old)]}
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new) and old and _nests(old[0]):
        pairs = {str(index): pair for index, pair in enumerate(zip(old, new, strict=True))}
    else:
        return {path: (_plain(old), _plain(new))}
    found: dict[str, tuple[Any, Any]] = {}
    for name, (before, after) in pairs.items():
        found |= _of_values(before, after, f"{path}.{name}" if path else name)
    return found


def _nests(value: Any) -> bool:
    return isinstance(value, (Section, dict))


def _plain(value: Any) -> Any:
    if isinstance(value, Section):
        return value.model_dump()
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value
