"""Published systems by name: `attention: bahdanau2015` stands for the combination of the paper of that name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_NO_ATTENTION = {"window": "global", "wiring": "bahdanau"}
_LUONG = {"wiring": {"kind": "luong", "input_feeding": True}}

ATTENTION_PRESETS: Mapping[str, Mapping[str, Any]] = {
    # No attention. The sentence's vector is the decoder's first state and nothing else: section 2.
    "sutskever2014": {"score": {"kind": "none", "context": "first_state"}, **_NO_ATTENTION},
    # No attention. The sentence's vector also goes into every step and into the readout: eq. 4 and 8.
    "cho2014": {"score": {"kind": "none", "context": "every_step"}, **_NO_ATTENTION},
    # Additive score over the whole sentence, looked at before the update: sections 3.1 and A.1.2.
    "bahdanau2015": {"score": "additive", "window": "global", "wiring": "bahdanau"},
    # Sections 3.1 (global) and 3.2 (local, with the general score that did best there), input feeding of 3.3.
    "luong2015_global_location": {"score": "location", "window": "global", **_LUONG},
    "luong2015_global_dot": {"score": "dot", "window": "global", **_LUONG},
    "luong2015_global_general": {"score": "general", "window": "global", **_LUONG},
    "luong2015_global_concat": {"score": "concat", "window": "global", **_LUONG},
    "luong2015_local_monotonic": {
        "score": "general",
        "window": {"kind": "local_monotonic", "half_width": 10},
        **_LUONG,
    },
    "luong2015_local_predictive": {
        "score": "general",
        "window": {"kind": "local_predictive", "half_width": 10},
        **_LUONG,
    },
    # Bahdanau's attention told what it has covered: section 3, linguistic and neural coverage.
    "tu2016_linguistic": {
        "score": "additive",
        "window": "global",
        "wiring": "bahdanau",
        "coverage": {"kind": "linguistic", "max_fertility": 2.0},
    },
    "tu2016_neural": {
        "score": "additive",
        "window": "global",
        "wiring": "bahdanau",
        "coverage": {"kind": "neural", "size": 10},
    },
    # The first decoder layer looks with its state of the step before; the context goes into the layers above:
    # section 3 and figure 1.
    "gnmt2016": {
        "score": "additive",
        "window": "global",
        "wiring": {"kind": "gnmt", "query": "previous", "context_feeding": False},
    },
    # The same with the state of this step, as the system's second public version has it.
    "gnmt_v2": {
        "score": "additive",
        "window": "global",
        "wiring": {"kind": "gnmt", "query": "current", "context_feeding": False},
    },
    # Conditional recurrent unit: section 2.
    "nematus2017": {"score": "additive", "window": "global", "wiring": "conditional"},
    # Additive attention with four heads, its context in all layers and in the readout.
    "rnmt_plus2018": {
        "score": "additive",
        "window": "global",
        "wiring": {"kind": "gnmt", "query": "current", "context_feeding": True},
        "heads": 4,
    },
}
