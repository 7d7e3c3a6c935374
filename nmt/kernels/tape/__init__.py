"""Attentive recurrences, recorded as a few operations and differentiated by hand."""

from nmt.kernels.tape.attend import attend
from nmt.kernels.tape.cells import Entering
from nmt.kernels.tape.factors import FactoredSteps
from nmt.kernels.tape.graphs import Graphs
from nmt.kernels.tape.recording import Tape
from nmt.kernels.tape.steps import Annotations, StepKernels
from nmt.kernels.tape.values import Row, Term, Value

__all__ = [
    "Annotations",
    "Entering",
    "FactoredSteps",
    "Graphs",
    "Row",
    "StepKernels",
    "Tape",
    "Term",
    "Value",
    "attend",
]
