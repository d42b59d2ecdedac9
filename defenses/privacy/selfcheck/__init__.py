"""The self-test of private parts: do a reader and a start do what the claim says? Made-up records, known answers."""

from ddaudit.defenses.privacy.selfcheck.checks import check_reader, check_start

__all__ = ["check_reader", "check_start"]
