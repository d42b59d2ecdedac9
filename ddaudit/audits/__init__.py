"""Plan, run, resume and collect audits."""

from ddaudit.audits.collection import Collected, collect
from ddaudit.audits.config import AuditConfig, make_config
from ddaudit.audits.plan import Given, Plan, make_plan
from ddaudit.audits.previews import PlannedCells, Preview, named_recipes, preview
from ddaudit.audits.run import Outcome, run_audit
from ddaudit.audits.store import RunStore
from ddaudit.audits.subjects import make_subject

__all__ = [
    "AuditConfig",
    "Collected",
    "Given",
    "Outcome",
    "Plan",
    "PlannedCells",
    "Preview",
    "RunStore",
    "collect",
    "make_config",
    "make_plan",
    "make_subject",
    "named_recipes",
    "preview",
    "run_audit",
]
