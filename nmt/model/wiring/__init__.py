"""The wirings. Each is a file in this folder and a line here."""

from nmt.model.wiring import bahdanau, conditional, gnmt, luong
from nmt.model.wiring.base import WIRINGS, DecoderState, Wiring, build_wiring

__all__ = ["WIRINGS", "DecoderState", "Wiring", "bahdanau", "build_wiring", "conditional", "gnmt", "luong"]
