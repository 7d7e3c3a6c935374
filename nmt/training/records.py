"""The course of a run as data: `metrics.jsonl` and TensorBoard."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from nmt.checkpoint.durable import replace_file


class Records:
    """One JSON object a line, and the numbers among its values as TensorBoard scalars `KIND/NAME`."""

    def __init__(self, run: Path, resumed_step: int) -> None:
        """Go on after `resumed_step` updates: what an earlier process wrote beyond them is dropped."""
        # Imported here: it takes a second, which programs that do not train need not wait.
        from torch.utils.tensorboard import SummaryWriter

        file = run / "metrics.jsonl"
        lines = _lines_up_to(file, resumed_step) if file.exists() else []
        self.seconds = max((float(line.get("seconds") or 0.0) for line in lines), default=0.0)
        """Wall-clock time of the run up to its last line."""
        replace_file(file, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
        self._file = file.open("a", encoding="utf-8")
        self._board: Any = SummaryWriter(
            str(run / "tensorboard"), purge_step=resumed_step + 1 if resumed_step else None
        )

    def write(self, kind: str, step: int, epoch: int, seconds: float, values: Mapping[str, Any]) -> None:
        """Writes a line and flushes it. An OSError names the file."""
        line = {"type": kind, "step": step, "epoch": epoch, "seconds": round(seconds, 3)}
        assert not line.keys() & values.keys(), f"{kind}: {sorted(values)} take the name of a fixed field"
        line |= {name: plain(value) for name, value in values.items()}
        try:
            self._file.write(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n")
            self._file.flush()
        except OSError as error:
            raise OSError(error.errno, error.strerror, self._file.name) from error
        try:
            for name in values:
                if isinstance(line[name], (int, float)) and not isinstance(line[name], bool):
                    self._board.add_scalar(f"{kind}/{name}", line[name], step)
        except OSError as error:
            raise OSError(error.errno, error.strerror, self._board.log_dir) from error

    def table(self, name: str, step: int, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Show a table of text in TensorBoard."""
        lines = [header, ["---"] * len(header), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
        self._board.add_text(name, "\n".join(f"| {' | '.join(line)} |" for line in lines), step)

    def close(self) -> None:
        """Closes the files. What could not be written has been reported: closing tries again."""
        for file in (self._board, self._file):
            with suppress(OSError):
                file.close()


def plain(value: Any) -> Any:
    """A value as JSON knows it: tensors and NumPy numbers become numbers, what is not finite becomes None."""
    if value is None or isinstance(value, (bool, int, str)):
        return value
    number = float(value)
    return number if math.isfinite(number) else None


def _lines_up_to(file: Path, step: int) -> list[dict[str, Any]]:
    """Lines of the part of the run that is kept; a line torn by a kill is none."""
    kept = []
    for text in file.read_text(encoding="utf-8", errors="replace").split("\n"):
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict) and isinstance(line.get("step"), int) and line["step"] <= step:
            kept.append(line)
    return kept
