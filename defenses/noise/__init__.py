"""Distillation of records some of whose labels are wrong."""
