"""Sets whose networks know how sure they may be."""
