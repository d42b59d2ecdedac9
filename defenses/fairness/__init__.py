"""Group-fair distillation."""
