"""The benchmark: the copied patterns and ours, side by side. README.md says how to run it and how it works."""
