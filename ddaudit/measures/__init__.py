"""Auditors without an adversary: utility, calibration, bias, and the scores behind them."""
