"""Translates lines with the graphs of nmt-export, greedily: an example that needs onnxruntime and SentencePiece alone.

Usage: python scripts/translate_onnx.py FOLDER < source.txt
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import sentencepiece


class OnnxTranslator:
    """Encoder, decoder step and tokenizers of a folder."""

    def __init__(self, folder: Path) -> None:
        self.encoder, self.step = (
            onnxruntime.InferenceSession(folder / name, providers=["CPUExecutionProvider"])
            for name in ("encoder.onnx", "step.onnx")
        )
        shared = (folder / "tokenizer.model").exists()
        self.source, self.target = (
            sentencepiece.SentencePieceProcessor(model_file=str(folder / f"{'tokenizer' if shared else side}.model"))
            for side in ("source", "target")
        )
        self.options = json.loads((folder / "options.json").read_text(encoding="utf-8"))

    def translate(self, line: str) -> str:
        """Returns the translation of a line; a blank line stays blank."""
        ids = self.source.encode(line)
        return str(self.target.decode(self.greedy(ids))) if ids else ""

    def greedy(self, source: list[int]) -> list[int]:
        """Returns the pieces that are the most probable ones, one after the other."""
        options = self.options
        inputs: dict[str, Any] = {"source": np.array([[*source, options["source_end"]]], np.int64)}
        names = [output.name for output in self.encoder.get_outputs()]
        state = dict(zip(names, self.encoder.run(None, inputs), strict=True))
        taken = {given.name for given in self.step.get_inputs()}
        names = [output.name for output in self.step.get_outputs()]
        pieces: list[int] = []
        for _ in range(math.floor(options["max_length_ratio"] * len(source)) + options["max_length_offset"]):
            state["previous"] = np.array([[pieces[-1] if pieces else options["begin"]]], np.int64)
            outputs = dict(zip(names, self.step.run(None, {name: state[name] for name in taken}), strict=True))
            outputs["logits"][0, options["forbidden"]] = -np.inf
            piece = int(outputs["logits"][0].argmax())
            if piece == options["end"]:
                break
            pieces.append(piece)
            state |= {name.removeprefix("next."): value for name, value in outputs.items()}
        return pieces


if __name__ == "__main__":
    translator = OnnxTranslator(Path(sys.argv[1]))
    for text in sys.stdin:
        print(translator.translate(text.rstrip("\n")), flush=True)
