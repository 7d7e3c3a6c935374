"""Tests of nmt. Support modules are imported as `tests.NAME`, under one name only."""
