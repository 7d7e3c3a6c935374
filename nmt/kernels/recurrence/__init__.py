"""Attentive recurrences, recorded as a few operations and differentiated by hand."""

from nmt.kernels.recurrence.attend import attend
from nmt.kernels.recurrence.cells import Entering
from nmt.kernels.recurrence.factors import FactoredSteps
from nmt.kernels.recurrence.graphs import Graphs
from nmt.kernels.recurrence.loop import Loop
from nmt.kernels.recurrence.steps import Annotations, Steps
from nmt.kernels.recurrence.values import Row, Term, Value

__all__ = ["Annotations", "Entering", "FactoredSteps", "Graphs", "Loop", "Row", "Steps", "Term", "Value", "attend"]
