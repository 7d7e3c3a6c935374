"""nmt-serve under load, under attack, and when it is stopped."""
