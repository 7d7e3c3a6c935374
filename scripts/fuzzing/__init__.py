"""A fuzzer of the commands: `scripts/fuzz`."""
