"""Decoder wirings: order of recurrence and attention, use of the context.

A wiring is a file in this folder and a line below.
"""

# A module registers its mechanism when it is imported.
from nmt.model.wiring import bahdanau, conditional, gnmt, luong
from nmt.model.wiring.base import WIRINGS, DecoderState, LatentReadout, LexicalModel, Output, Wiring
