"""Times imports, loading and two translations in a fresh process. Arguments: MODEL SENTENCE."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any


def main(model: str, sentence: str) -> dict[str, Any]:
    """Returns the seconds of each stage, from the imports to the second translation."""
    taken: dict[str, Any] = {}

    def note(name: str, work: Callable[[], Any]) -> Any:
        start = time.perf_counter()
        result = work()
        taken[name] = time.perf_counter() - start
        return result

    def imports() -> Any:
        import nmt.tasks.translation.loading
        import nmt.tasks.translation.text_translation

        return nmt.tasks.translation

    translation = note("imports", imports)
    from nmt.config.schema import RuntimeConfig
    from nmt.runtime import set_up

    runtime = set_up(RuntimeConfig(device="cpu", precision="fp32"))
    loaded = note("load", lambda: translation.loading.load_model(model, None, runtime))
    system = translation.loading.build_system([loaded], runtime)

    def translate() -> str:
        found = translation.text_translation.translate_lines(system, [sentence.rstrip("\n")], loaded.config.search)
        text: str = found[0][0].text
        return text.strip()

    taken["said"] = note("first", translate)
    note("second", translate)
    return {**taken, "parameters": sum(each.numel() for each in loaded.translator.parameters())}


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])))
