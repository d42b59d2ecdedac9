"""Distillation of long-tailed data."""
