"""Published systems by name: `attention: bahdanau2015` stands for the combination of the paper of that name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

ATTENTION_PRESETS: Mapping[str, Mapping[str, Any]] = {
    # Additive score over the whole sentence, looked at before the update: sections 3.1 and A.1.2.
    "bahdanau2015": {"score": "additive", "window": "global", "wiring": "bahdanau"},
    # No attention. The sentence's vector is the decoder's first state and nothing else: section 2.
    "sutskever2014": {
        "score": {"kind": "none", "context": "first_state"},
        "window": "global",
        "wiring": "bahdanau",
    },
    # No attention. The sentence's vector also goes into every step and into the readout: eq. 4 and 8.
    "cho2014": {
        "score": {"kind": "none", "context": "every_step"},
        "window": "global",
        "wiring": "bahdanau",
    },
}
