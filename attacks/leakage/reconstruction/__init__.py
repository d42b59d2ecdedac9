"""Rebuilding training records: from released sums and sets, and from trained weights."""
