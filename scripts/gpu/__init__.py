"""Checks and measurements of `scripts/check_gpu`."""

ATTENTIONS = ("bahdanau2015", "nematus2017", "luong2015_global_general", "luong2015_global_dot")
"""Additive, general and dot scores in the wirings whose recurrence has attention in it."""
