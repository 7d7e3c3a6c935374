"""What an evaluation found, as tables and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nmt.data.batching.past import group_by_document
from nmt.errors import counted
from nmt.evaluation import score_rows, score_values
from nmt.evaluation.metrics import comparison_rows, comparison_values
from nmt.runtime import format_table
from nmt.tasks.translation.comparison import TestSetResult


def as_text(results: Sequence[TestSetResult], baseline: str | None) -> str:
    """Tables for a person; `baseline` is what the comparisons call theirs."""
    return "\n\n".join("\n".join(_lines(result, baseline)) for result in results) + "\n"


def as_values(result: TestSetResult) -> dict[str, Any]:
    """Plain values, for JSON; what is not finite becomes None."""
    loss = result.evaluation.loss
    values: dict[str, Any] = {
        "name": result.test_set.name,
        "sentences": len(result.test_set.sources),
        "documents": _documents(result),
        "scores": score_values(result.evaluation.scores),
        "loss": _finite(loss.per_piece),
        "perplexity": _finite(loss.perplexity),
        "target_pieces": loss.pieces,
    }
    if result.comparisons is not None:
        values["comparisons"] = comparison_values(result.comparisons)
    return values


def _lines(result: TestSetResult, baseline: str | None) -> list[str]:
    test_set, loss = result.test_set, result.evaluation.loss
    heading = f"{test_set.name}: {counted(len(test_set.sources), 'sentence')}"
    if documents := _documents(result):
        heading += f" in {counted(documents, 'document')}"
    if len(test_set.references) > 1:
        heading += f", {len(test_set.references)} references each"
    lines = [
        heading,
        f"loss of the references {loss.per_piece:.4f}, perplexity {loss.perplexity:.2f}, "
        f"by {counted(loss.pieces, 'piece')}",
        _table(score_rows(result.evaluation.scores)),
    ]
    if result.comparisons is not None:
        unit = " over documents" if documents else ""
        lines += [f"compared with {baseline} by paired bootstrap{unit}", _table(comparison_rows(result.comparisons))]
    return lines


def _documents(result: TestSetResult) -> int | None:
    documents = result.test_set.documents
    return None if documents is None else len(group_by_document(documents, documents))


def _table(rows: Sequence[Sequence[str]]) -> str:
    return format_table(rows[1:], header=rows[0])


def _finite(value: float) -> float | None:
    return value if abs(value) < float("inf") else None
