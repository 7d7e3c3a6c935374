"""What a large corpus and several processes cost: measured in processes of their own, written to docs/scaling.md."""
