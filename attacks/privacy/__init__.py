"""Empirical privacy audit: canaries, one re-distillation, and an epsilon that the result refutes."""
