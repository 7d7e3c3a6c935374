"""YAML configuration: schema, reader and printer.

Imports neither PyTorch nor any selectable part.
"""

from __future__ import annotations

from nmt.config.printer import difference, dump_config
from nmt.config.reader import Check, Components, Families, parse_config
from nmt.config.registry import PartOptions, Registry, Section
from nmt.config.schema import ClassificationConfig, ExperimentConfig, TranslationConfig
