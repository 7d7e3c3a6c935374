"""Objectives: likelihood, R-Drop, scheduled sampling, minimum risk.

Those of translation are choices of `training.objective`. An objective is a file in this folder and a line here.
"""

# A module registers its objective when it is imported.
from nmt.training.objectives import minimum_risk, r_drop, scheduled_sampling
from nmt.training.objectives.base import (
    MIN_ATTENTION,
    OBJECTIVES,
    ClassificationObjective,
    LossSums,
    Objective,
    ObjectiveOptions,
    TranslationObjective,
    alignment_cross_entropy,
    alignment_squared_error,
    loss_scales,
    target_rows,
)
