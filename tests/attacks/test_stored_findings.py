"""The attacks still read the numbers that they read before this folder was put in order.

``stored_findings.json`` was first written by the code of commit 8410b0a, and anew when private answers were rounded to
a grid (without the rounding the numbers were those of 8410b0a). The readings of "rmia" and "rmia-offline", and no
others, were written anew when online RMIA got one form of reference for records and population, and both got ties
broken by the ratio (before, the TPR of "rmia" at 1 % FPR was that of random order among 2 to 80 % of the records).
Intervals over networks, and of bootstraps, and no values, were written anew when they came to cover what they promise
(docs/statistics.md). Where few records are sampled, "privacy" was written anew when samples came to be composed as the
data are, with the checks that got a p-value or another form:

    OMP_NUM_THREADS=1 python tests/attacks/test_stored_findings.py tests/attacks/stored_findings.json

A change that is meant to move a number raises that auditor's ``version`` and writes the file anew. Texts may change;
every metric and every check of the file must still be there. The readings end in trained networks, which other
processors or releases of torch train to other last digits: there the test is skipped.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from ddaudit.auditing import AUDITORS, PRESETS, Context, Subject, stratified
from ddaudit.data import Dataset, load_data
from ddaudit.distillation import Recipe, distill, resolve
from ddaudit.distillation.labels import TeacherLabels
from ddaudit.errors import DDAuditError
from ddaudit.findings import Finding
from ddaudit.models import Arch
from ddaudit.training import PROTOCOLS

STORED = Path(__file__).with_name("stored_findings.json")
AUDITED_AS = {
    "membership": {
        "shadows": 4, "pool": 160, "population": 100, "victims_per_shadow": 1, "random_networks": 2, "noise_draws": 1,
        "control_runs": 3, "control_steps": 3, "control_sizes": (0.5, 1.0), "rmia_references": 1,
        "attacks": ("lira", "lira-offline", "rmia", "rmia-offline", "quantile", "loss", "confidence", "entropy",
                    "modified-entropy", "label-only", "label-only-shifts", "class-mean", "domias", "nearest",
                    "nearest-features"),
        "file_attacks": ("rmia-offline", "quantile", "loss", "confidence", "entropy", "modified-entropy",
                         "label-only", "label-only-shifts", "class-mean", "domias", "nearest", "nearest-features"),
    },
    "leakage": {"images": 50, "pairs": 3},
    "privacy": {"canaries": 32, "networks": 2, "known": 60, "kinds": ("mislabelled", "natural", "pattern")},
    "reconstruction": {"targets": 6, "pool": 80, "networks": 3, "releases": 5, "steps": 6, "starts": 2, "batch": 2,
                       "pairs": 2},
    "soft-labels": {"canaries": 60, "unseen": 60, "records": 40, "temperatures": (20.0,), "top": (2,),
                    "shuffle": True, "students": 1},
}  # fmt: skip
PROBED = ("reader:", "start:")
"""Checks of the private gate, which is tested where it lives."""
GONE = {
    "weights of a network that memorised its records",
    "a linear student above the threshold knows every held-out label",
    "a linear student below the threshold knows some",
    "hard labels leak nothing",
}
"""Checks that looked at other code than the auditors', and went with it."""


def test_findings_are_those_that_were_stored() -> None:
    stored = json.loads(STORED.read_text())
    if not _close(_arithmetic(), stored["arithmetic"]):
        pytest.skip(
            "this machine or release of torch trains networks to other digits than the stored ones"
        )
    read = dict(_readings())
    assert read.keys() == stored["findings"].keys()
    wrong = [
        f"{cell}: {key} was {old}, is {read[cell].get(key)}"
        for cell, numbers in stored["findings"].items()
        for key, old in numbers.items()
        if key not in GONE and not _close(read[cell].get(key), old)
    ]
    assert not wrong, "\n".join(wrong)


def _close(new: Any, old: Any) -> bool:
    if isinstance(old, list):
        return isinstance(new, list) and len(new) == len(old) and all(map(_close, new, old))
    if isinstance(new, float) and isinstance(old, float):
        return math.isclose(new, old, rel_tol=1e-6, abs_tol=1e-9)
    return bool(new == old)


def _readings() -> Iterator[tuple[str, dict[str, Any]]]:
    """(cell, its numbers) of every auditor on every subject, and of its checks."""
    ctx = _context()
    for name, settings in AUDITED_AS.items():
        audit = AUDITORS.get(name)
        chosen = audit.configure("quick", settings)
        for subject in _subjects(ctx.data):
            if ("soft" in name) != (subject.id in ("taught", "soft file")):
                continue
            try:
                found = audit.run(subject, ctx, chosen, 0)
            except DDAuditError as error:
                yield f"{name} of {subject.id}", {"refused": type(error).__name__}
            else:
                yield f"{name} of {subject.id}", _numbers(found)
        checks = Finding(subject="", auditor=name, checks=audit.checks(ctx, chosen))
        yield f"checks of {name}", _numbers(checks)


def _context() -> Context:
    data = load_data("digits")
    small = replace(
        data,
        train=stratified(data.train, 240, even=True),
        validation=stratified(data.validation, 80, even=True),
        test=stratified(data.test, 160, even=True),
    )
    preset = PRESETS["quick"].model_copy(update={"victims": 1, "protocol": "stored"})
    return Context(data=small, preset=preset, arch=Arch.parse("ConvNetD2W8"), ipc=2)


def _subjects(data: Dataset) -> list[Subject]:
    few = {"loop.iterations": 6, "networks.width": 8}
    dm = resolve("dm", profile="small", options=few)
    private = resolve("ndpdc", profile="small", options={**few, "reader.batch": 20})
    assert private.reader is not None
    seeded: Any = replace(private.reader, noise_seed=7)  # type: ignore[type-var]
    recipes: dict[str, Recipe] = {
        "random": resolve("random", profile="small"),
        "dm": dm,
        "private": replace(private, reader=seeded),
        "taught": replace(dm, labels=TeacherLabels(epochs=10)),
    }
    released = distill(dm, data.train, data=data, ipc=2, seed=5)
    soft = torch.nn.functional.one_hot(released.labels, data.num_classes) * 0.8 + 0.02
    made = {"file": released, "soft file": replace(released, labels=soft.float())}
    return [
        *(Subject(id=k, kind="recipe", recipe=v, identity=k) for k, v in recipes.items()),
        *(Subject(id=k, kind="file", set=v, identity=k) for k, v in made.items()),
    ]


def _numbers(found: Finding) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for m in found.metrics:
        key = f"{m.name} {json.dumps(m.params, sort_keys=True)}"
        bounds = [v for _, v in sorted(m.best_of.items())]
        out[key] = [m.value, m.low, m.high, m.n, m.floor, m.headline, *bounds]
    for c in found.checks:
        if not c.name.startswith(PROBED):
            out[c.name] = [c.passed, c.value, c.p_value]
    for curve in found.curves:
        out[f"curve {curve.plot}, {curve.label}"] = [len(curve.x), sum(curve.x), sum(curve.y)]
    out["pictures"] = [image.name for image in found.images]
    out["status"] = found.status
    return out


def _arithmetic() -> list[float]:
    """How this machine trains a network: a loop in plain torch, so that no change of ours can move it."""
    g = torch.Generator().manual_seed(0)
    x, y = torch.rand(64, 1, 8, 8, generator=g), torch.arange(64) % 10
    kernel = (0.3 * torch.randn(8, 1, 3, 3, generator=g)).requires_grad_(True)
    head = (0.3 * torch.randn(10, 8 * 36, generator=g)).requires_grad_(True)
    for _ in range(30):
        hidden = torch.nn.functional.conv2d(x, kernel).relu().flatten(1)
        loss = torch.nn.functional.cross_entropy(hidden @ head.T, y)
        for part, slope in zip(
            (kernel, head), torch.autograd.grad(loss, (kernel, head)), strict=True
        ):
            part.data -= 0.5 * slope
    basis = torch.linalg.svd(torch.rand(20, 20, generator=g)).S
    return [
        float(loss.detach()),
        float(kernel.data.double().sum()),
        float(head.data.double().norm()),
        float(basis[-1]),
    ]


@pytest.fixture(autouse=True)
def _short_protocol(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PROTOCOLS, "stored", _protocol())


def _protocol() -> Any:
    return replace(PROTOCOLS["quick"], name="stored", epochs_plain=8, augment="")


if __name__ == "__main__":
    torch.set_num_threads(1)
    PROTOCOLS["stored"] = _protocol()
    produced = {"arithmetic": _arithmetic(), "findings": dict(_readings())}
    Path(sys.argv[1]).write_text(json.dumps(produced, indent=0, sort_keys=True) + "\n")
