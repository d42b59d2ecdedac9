"""ddaudit: the trustworthiness audit suite for dataset distillation.

The public API is small: load data, resolve a recipe, distil, audit, report. Everything else is a part that
registers by name.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ddaudit.audits import AuditConfig, run_audit
    from ddaudit.data import load_data
    from ddaudit.distillation import distill, resolve
    from ddaudit.reports import write_report
    from ddaudit.reports.runs import report_of
    from ddaudit.sets import DistilledSet, import_set, load, save

__version__ = "0.1.0"

_HOME = {
    "AuditConfig": "ddaudit.audits",
    "DistilledSet": "ddaudit.sets",
    "distill": "ddaudit.distillation",
    "import_set": "ddaudit.sets",
    "load": "ddaudit.sets",
    "load_data": "ddaudit.data",
    "report_of": "ddaudit.reports.runs",
    "resolve": "ddaudit.distillation",
    "run_audit": "ddaudit.audits",
    "save": "ddaudit.sets",
    "write_report": "ddaudit.reports",
}

__all__ = [
    "AuditConfig",
    "DistilledSet",
    "distill",
    "import_set",
    "load",
    "load_data",
    "report_of",
    "resolve",
    "run_audit",
    "save",
    "write_report",
]


def __getattr__(name: str) -> Any:
    # Lazy: 'import ddaudit' and the command line's --help should not wait for torch.
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'ddaudit' has no attribute '{name}'")
