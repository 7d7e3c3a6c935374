"""Tests of nmt. Their support modules are in `tests.support`."""
