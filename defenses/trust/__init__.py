"""Sets whose networks reject what they do not know."""
