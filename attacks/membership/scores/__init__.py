"""Membership scores: pure functions, a family a file, (N,) each, higher = likelier a member."""
