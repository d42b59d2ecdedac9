"""Auditors with an adversary, one folder a question."""
