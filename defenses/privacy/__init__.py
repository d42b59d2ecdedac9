"""Private distillation: the gate to private records, its ledger and accountants, and the methods behind it."""
