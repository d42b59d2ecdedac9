"""Trustworthy distillation: private, fair and other transforms of base methods."""
