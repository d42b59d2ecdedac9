"""Policies that are shipped: the gate takes them by name."""
