"""The wirings. Each is a file in this folder and a line here."""

from nmt.model.wiring import bahdanau
from nmt.model.wiring.base import WIRINGS, DecoderState, Output, Wiring, build_wiring

__all__ = ["WIRINGS", "DecoderState", "Output", "Wiring", "bahdanau", "build_wiring"]
