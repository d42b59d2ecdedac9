"""Rebuilding training records from released sums and sets."""
