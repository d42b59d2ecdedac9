"""ddaudit: the trustworthiness audit suite for dataset distillation.

The public API is small: load data, distil, audit, report, and the nouns that methods and auditors of one's own are
written with. Everything else is a part that registers by name.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ddaudit.api import Run, audit, distill
    from ddaudit.auditing import Auditor, Context, Settings, Subject, auditor
    from ddaudit.audits import AuditConfig, run_audit
    from ddaudit.data import Dataset, ImageData, load_data
    from ddaudit.data.hub_objects import from_datasets
    from ddaudit.distillation import Recipe, method, register, resolve
    from ddaudit.errors import BadInput
    from ddaudit.findings import Check, Finding, Metric, MetricInfo
    from ddaudit.reports import write_report
    from ddaudit.reports.runs import report_of
    from ddaudit.sets import DistilledSet, import_set, load, save

__version__ = "0.1.0"

# Lazy: 'import ddaudit' and the command line's --help do not wait for torch.
_HOME = {
    "AuditConfig": "ddaudit.audits",
    "Auditor": "ddaudit.auditing",
    "BadInput": "ddaudit.errors",
    "Check": "ddaudit.findings",
    "Context": "ddaudit.auditing",
    "Dataset": "ddaudit.data",
    "DistilledSet": "ddaudit.sets",
    "Finding": "ddaudit.findings",
    "ImageData": "ddaudit.data",
    "Metric": "ddaudit.findings",
    "MetricInfo": "ddaudit.findings",
    "Recipe": "ddaudit.distillation",
    "Run": "ddaudit.api",
    "Settings": "ddaudit.auditing",
    "Subject": "ddaudit.auditing",
    "audit": "ddaudit.api",
    "auditor": "ddaudit.auditing",
    "distill": "ddaudit.api",
    "from_datasets": "ddaudit.data.hub_objects",
    "import_set": "ddaudit.sets",
    "load": "ddaudit.sets",
    "load_data": "ddaudit.data",
    "method": "ddaudit.distillation",
    "register": "ddaudit.distillation",
    "report_of": "ddaudit.reports.runs",
    "resolve": "ddaudit.distillation",
    "run_audit": "ddaudit.audits",
    "save": "ddaudit.sets",
    "write_report": "ddaudit.reports",
}

__all__ = [
    "AuditConfig",
    "Auditor",
    "BadInput",
    "Check",
    "Context",
    "Dataset",
    "DistilledSet",
    "Finding",
    "ImageData",
    "Metric",
    "MetricInfo",
    "Recipe",
    "Run",
    "Settings",
    "Subject",
    "audit",
    "auditor",
    "distill",
    "from_datasets",
    "import_set",
    "load",
    "load_data",
    "method",
    "register",
    "report_of",
    "resolve",
    "run_audit",
    "save",
    "write_report",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'ddaudit' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
