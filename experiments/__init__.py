"""Experiments: faults with a verified effect, the ground truth, and the traces. docs/experiments.md describes them."""
