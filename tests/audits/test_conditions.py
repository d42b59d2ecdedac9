"""What is one number, and what is one subject: seeds under other conditions, paths, networks of one's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from ddaudit.audits import AuditConfig
from ddaudit.audits.plan import LEFT_OUT, Given, make_plan
from ddaudit.audits.store import RunStore
from ddaudit.audits.subjects import _module_identity
from ddaudit.data import load_data
from ddaudit.findings import Finding, Metric
from ddaudit.reports.runs import report_of
from ddaudit.sets import Card, DistilledSet, save
from ddaudit.training import PROTOCOLS


def _audit(store: RunStore, tag: str, seeds: int, value: float, shadows: int, started: str) -> None:
    cells = []
    for name in ("dm", "random"):
        for seed in range(seeds):
            metric = Metric(
                name="membership.tpr",
                value=value,
                low=value - 0.02,
                high=value + 0.02,
                headline=True,
            )
            key = f"{tag}{name}{seed}"
            store.save_cell(
                key, Finding(subject=name, auditor="membership", metrics=[metric], seed=seed)
            )
            cells.append({"subject": name, "auditor": "membership", "seed": seed, "key": key})
    settings: dict[str, Any] = {"shadows": shadows}
    store.write_info(
        {
            "format": 1, "config": {"seeds": seeds, "settings": {"membership": settings}}, "cells": cells,
            "data": {"name": "digits", "fingerprint": "f", "test_fingerprint": "t"}, "preset": {"name": "full"},
            "arch": "C", "protocol": {"name": "p"}, "seeds": list(range(seeds)), "versions": {}, "started": started,
            "subjects": [
                {"id": n, "kind": "recipe", "identity": n, "set_keys": [], "baseline": n == "random"}
                for n in ("dm", "random")
            ],
            "auditors": [{"name": "membership", "settings": settings}],
        }
    )  # fmt: skip


def test_seeds_under_other_settings_are_no_seeds_of_the_same_number(tmp_path: Path) -> None:
    store = RunStore(str(tmp_path))
    _audit(store, "old", 3, 0.10, 4, "2026-01-01")
    _audit(store, "new", 1, 0.40, 64, "2026-01-02")
    found = report_of([str(tmp_path)]).findings[0].metrics[0]
    assert (found.value, found.draws) == (0.40, 1)


def test_a_set_file_in_a_folder_was_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Heavy auditors leave baselines out on large images; a file is no baseline, wherever it lies."""
    from dataclasses import replace

    digits = load_data("digits")
    large = replace(
        digits,
        **{
            k: replace(s, images=s.images.repeat_interleave(4, 2).repeat_interleave(4, 3))
            for k in ("train", "validation", "test")
            for s in (getattr(digits, k),)
        },
    )
    made = DistilledSet(torch.rand(10, *large.shape), torch.arange(10), 10, Card(method="mine"))
    file = save(made, tmp_path / "sets" / "mine.safetensors")
    out = str(tmp_path / "run")
    config = AuditConfig(
        subjects=[str(file)],
        auditors=["membership", "utility"],
        preset="quick",
        device="cpu",
        out=out,
    )
    plan = make_plan(config, RunStore(out), Given(data=large))
    assert plan.context.preset.large
    assert plan.context.protocol.epochs < PROTOCOLS["quick"].epochs
    assert not [c for c in plan.cells if c.subject == "mine.safetensors" and c.left_out == LEFT_OUT]
    assert [c for c in plan.cells if c.left_out]


class Scaled(nn.Module):
    """Its weights do not say all of what it does."""

    def __init__(self, scale: float, mean: float) -> None:
        super().__init__()
        self.scale, self.linear = scale, nn.Linear(64, 10)
        self.register_buffer("mean", torch.tensor(mean), persistent=False)


def test_networks_that_differ_outside_their_weights_are_two() -> None:
    first = Scaled(1.0, 0.0)
    again, scaled, moved = Scaled(1.0, 0.0), Scaled(-1.0, 0.0), Scaled(1.0, 0.5)
    for net in (again, scaled, moved):
        net.load_state_dict(first.state_dict())
    assert _module_identity(first) == _module_identity(again)
    assert len({_module_identity(n) for n in (first, scaled, moved)}) == 3
