"""Membership scores: pure functions, a family a file, (N,) each, higher = likelier a member."""

from ddaudit.attacks._common import signals

__all__ = ["signals"]
