"""Cells are addressed by everything their numbers depend on, and by nothing else."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ddaudit.audits import plan
from ddaudit.audits.config import AuditConfig
from ddaudit.data import Dataset, load_data


def keys(data: Dataset, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Label -> key of every cell of an audit of these data."""
    monkeypatch.setattr(plan, "load_data", lambda *_, **__: data)
    config = AuditConfig(
        subjects=["random"], data="digits-colored", baselines=[], auditors=["bias", "utility"]
    )
    made = plan.make_plan(config)
    return {cell.label: cell.key for cell in (*made.preparations, *made.cells)}


def test_another_paired_test_set_is_another_bias_cell_and_no_other(monkeypatch):
    data = load_data("digits-colored")
    paired = data.extra["test_paired"]
    one_less = paired.subset(paired.labels.new_tensor(range(1, len(paired))))
    before = keys(data, monkeypatch)
    after = keys(replace(data, extra={"test_paired": one_less}), monkeypatch)
    changed = {label for label, key in before.items() if after[label] != key}
    assert changed == {"bias: instrument checks", "random: bias (seed 0)"}
    assert keys(replace(data, extra=dict(data.extra)), monkeypatch) == before


def test_without_the_paired_set_the_key_is_another(monkeypatch):
    data = load_data("digits-colored")
    before, after = keys(data, monkeypatch), keys(replace(data, extra={}), monkeypatch)
    assert before["random: bias (seed 0)"] != after["random: bias (seed 0)"]
    assert before["random: utility (seed 0)"] == after["random: utility (seed 0)"]
