"""Writes configs/schema.json, by which editors complete and check the YAML, and every key of each task:
configs/reference.yaml for translation, configs/reference-classification.yaml for classification.

They are made from the models that read the YAML; a test keeps them in step. Usage: python scripts/make_reference.py
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from nmt.config import json_schema, reference_yaml  # noqa: E402
from nmt.tasks.components import COMPONENTS  # noqa: E402

EDITOR = "# yaml-language-server: $schema=schema.json\n"


def files() -> dict[str, str]:
    """Returns the contents of the files by name."""
    return {
        "schema.json": json.dumps(json_schema(COMPONENTS), indent=1, ensure_ascii=False) + "\n",
        "reference.yaml": EDITOR + reference_yaml(COMPONENTS),
        "reference-classification.yaml": EDITOR + reference_yaml(COMPONENTS, "classification"),
    }


def main() -> None:
    for name, text in files().items():
        (ROOT / "configs" / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
