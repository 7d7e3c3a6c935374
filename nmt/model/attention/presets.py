"""Published systems by name: `attention: bahdanau2015` stands for the combination of the paper of that name.

A preset sets how the parts are connected: keys of `model.attention`, and by their full path keys elsewhere. Sizes,
cells and numbers of layers are the user's; the YAML of the preset's name in `configs/attention` has the paper's kind.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_ADDITIVE = {"score": "additive", "window": "global"}
# The readout sees s_{i-1} and the decoder starts from the backward state: A.2.2.
_BAHDANAU = {
    **_ADDITIVE,
    "wiring": {"kind": "bahdanau", "readout_state": "previous"},
    "model.decoder.bridge": "backward",
}
# The authors' decoder starts from the last states of the encoder.
_LUONG = {"wiring": {"kind": "luong", "input_feeding": True}, "model.decoder.bridge": "copy"}

_SYSTEMS: Mapping[str, Mapping[str, Any]] = {
    # No attention. The encoder's last states are the decoder's first states and nothing else: section 2.
    "sutskever2014": {
        "score": {"kind": "none", "context": "first_state"},
        "window": "global",
        "wiring": "bahdanau",
        "model.decoder.bridge": "copy",
    },
    # No attention. c = tanh(V h) goes into the first state, into every step and into the readout: eq. 4 and 8, A.1.
    "cho2014": {
        "score": {"kind": "none", "context": "every_step", "mapped": True},
        "window": "global",
        "wiring": {"kind": "bahdanau", "reset_context": True},
        "model.decoder.bridge": "context",
    },
    # Additive score over the whole sentence, with the state before the update: sections 3.1 and A.1.2.
    "bahdanau2015": _BAHDANAU,
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
    # Bahdanau's attention with coverage: section 3, linguistic and neural coverage.
    "tu2016_linguistic": {**_BAHDANAU, "coverage": {"kind": "linguistic", "max_fertility": 2.0}},
    "tu2016_neural": {**_BAHDANAU, "coverage": {"kind": "neural", "size": 10}},
    # The first decoder layer attends with its previous state; the context goes into the layers above:
    # section 3 and figure 1.
    "gnmt2016": {**_ADDITIVE, "wiring": {"kind": "gnmt", "query": "previous", "context_feeding": False}},
    # The same with the state of this step, as the system's second public version has it.
    "gnmt_v2": {**_ADDITIVE, "wiring": {"kind": "gnmt", "query": "current", "context_feeding": False}},
    # Conditional recurrent unit, started from the mean of the annotations: section 2.
    "nematus2017": {**_ADDITIVE, "wiring": "conditional", "model.decoder.bridge": "mean"},
    # Hard attention, exactly marginalised: section 3. The recurrence reads no context, and starts from zeros as in the
    # authors' program.
    "wu2018_hard": {
        "score": "general",
        "window": "global",
        "wiring": {"kind": "luong", "input_feeding": False},
        "alignment": "latent",
        "model.decoder.bridge": "zero",
    },
    # Additive attention with four heads, its context in all layers and in the readout.
    "rnmt_plus2018": {**_ADDITIVE, "wiring": {"kind": "gnmt", "query": "current", "context_feeding": True}, "heads": 4},
}
ATTENTION_PRESETS: Mapping[str, Mapping[str, Any]] = {
    # None of these papers has the lexical model, which is a paper of its own.
    name: {**system, "model.decoder.readout.lexical": False}
    for name, system in _SYSTEMS.items()
}
