"""Findings become reports (html, md, json, csv, tex) and are held against a policy."""

from ddaudit.reports._card import dataset_card
from ddaudit.reports.build import RawRun, build_report
from ddaudit.reports.gate import RuleResult, Tally, apply, tally
from ddaudit.reports.pictures import gallery
from ddaudit.reports.policy import Policy, Rule, load_policy
from ddaudit.reports.schema import AuditorInfo, Report, RunInfo, SubjectInfo, json_schema
from ddaudit.reports.write import FORMATS, read_report, write_report

__all__ = [
    "FORMATS",
    "AuditorInfo",
    "Policy",
    "RawRun",
    "Report",
    "Rule",
    "RuleResult",
    "RunInfo",
    "SubjectInfo",
    "Tally",
    "apply",
    "build_report",
    "dataset_card",
    "gallery",
    "json_schema",
    "load_policy",
    "read_report",
    "tally",
    "write_report",
]
