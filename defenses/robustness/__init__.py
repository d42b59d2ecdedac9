"""Distillation of sets that make networks resist small changes of their inputs, or shifts of sub-populations."""
