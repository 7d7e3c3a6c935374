"""Speed and memory beside what the machine's own matrix products allow: `scripts/benchmark`."""
