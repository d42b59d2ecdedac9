"""The self-test of private parts: do reader, rule, signals and start do what the claim says? Made-up records only."""

from ddaudit.defenses.privacy.selfcheck.checks import check_reader, check_start
from ddaudit.defenses.privacy.selfcheck.coupling import check_rule, check_signals

__all__ = ["check_reader", "check_rule", "check_signals", "check_start"]
