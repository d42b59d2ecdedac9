"""Robust recipes: each runs, composes with groups and privacy or says in a line why not, and says what it is."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from ddaudit.distillation import DEFENSES, METHODS, distill, resolve
from ddaudit.errors import BadInput

NET = {"networks.arch": "ConvNetD2W8", "networks.width": None}
ATTACK = {"attack.steps": 2}
FEW = {**NET, "loop.iterations": 2}
DM = {**FEW, "networks.count": 1, "networks.epochs": 2}
DC = {**FEW, "loop.outer": 2}
QUEUE = {
    **FEW,
    "networks.records": 32,
    "networks.size": 4,
    "reader.reader.per_class": 8,
    "networks.training.robust.attack.steps": 1,
    "reader.attack.steps": 1,
}
PATHS = {**DM, "loop.rate.lr": 1e-6, "loop.starts.last": 1, "loop.steps": 2}
STEPS = {"loop.steps": 2, "reader.reader.per_class": 8}
OPTIONS = {
    "dm+curvature": DM,
    "dm+fair+guard": DM,
    "dm+adversarial": DM,
    "dc+fair+guard": {**DC, "loop.inner": 1, "reader.per_class": 8},
    "dc+adversarial": {**DC, "loop.inner": 1, "reader.reader.per_class": 8},
    "dc+fair+cvar": {**DC, "networks.records": 64},
    "mtt+adversarial": PATHS,
    "mtt+guard": PATHS,
    "sre2l+guard": {
        "networks.arch": "ConvNetD2W8BN",
        "networks.epochs": 2,
        "loop.iterations": 2,
        "labels.epochs": 1,
    },
    "rome": QUEUE,
    "c2r": QUEUE,
    "idm+guard": {**FEW, "networks.records": 32, "networks.size": 4, "reader.per_class": 8},
    "adv-kip": STEPS,
    "adv-kip+fair": STEPS,
    "robust-learning": {**STEPS, **NET, "loop.inner": 2},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_the_same_seed_gives_the_same_set(name, tiny):
    recipe = resolve(name, profile="small", options=OPTIONS[name])
    a, b = (distill(recipe, tiny.train, data=tiny, ipc=1, seed=3) for _ in range(2))
    assert torch.equal(a.images, b.images)
    assert torch.isfinite(a.images).all()
    assert a.card.method == recipe.name
    base = name.split("+")[0] if "+" in name else {"rome": "idm", "c2r": "idm"}.get(name)
    if base:
        known = {k: v for k, v in OPTIONS[name].items() if "robust" not in k and "reader" not in k}
        drop = ("networks.count", "networks.epochs") if base == "dm" else ()
        drop += ("networks.records",) if base == "dc" else ()
        plain = resolve(
            base, profile="small", options={k: v for k, v in known.items() if k not in drop}
        )
        other = distill(plain, tiny.train, data=tiny, ipc=1, seed=3)
        assert not torch.equal(a.images, other.images)


def test_curvature_of_gradients_goes_with_privacy(tiny):
    options = {**DC, "loop.inner": 1}
    once = {**options, "loop.iterations": 1}
    recipe = resolve("dc+guard+dp", profile="small", options=once)
    made = distill(recipe, tiny.train, data=tiny, ipc=1, seed=0)
    assert made.card.privacy is not None
    coupled = {**options, "objective.curvature.form": "loss"}
    with pytest.raises(BadInput, match="GradientMatch sets each record's signal by the other"):
        resolve("dc+guard+dp", profile="small", options=coupled)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("dm+guard+dp", "trains networks on private records outside the ledger"),
        ("dm+adversarial+dp", "trains networks on private records outside the ledger"),
        ("dc+cvar+dp", "trains networks on private records outside the ledger"),
        ("idm+guard+dp", "trains networks on private records outside the ledger"),
        ("dc+adversarial+dp", "changes records before they are read"),
        ("rome+dp", "changes records before they are read"),
        ("c2r+dp", "picks records by other records"),
        ("sre2l+guard+dp", "through networks trained on them alone"),
        ("mtt+adversarial+dp", "or robustly"),
        ("adv-kip+dp", "no clip is known"),
        ("robust-learning+dp", "no clip is known"),
        ("ndpdc+adversarial", "no private reader"),
        ("mtt+guard+dp", "or robustly"),
        ("mtt+adversarial+fair", None),
        ("dm+guard+curvature", "has the curvature already"),
        ("dc+curvature+guard", "has the curvature already"),
        ("random+guard", "nothing is here"),
        ("dm-pool+adversarial", "no networks that learn the records"),
        ("dm+cvar", "there are none here"),
        ("dc+cvar+guard", None),
        ("rome+fair", None),
        ("c2r+fair", None),
        ("sre2l+guard+fair", None),
        ("robust-learning+fair", None),
    ],
)
def test_what_cannot_be_combined_says_why_in_a_line(name, why, tiny):
    if why is None:
        resolve(name, profile="small")
        return
    # Some are refused before networks are trained, some after: these train none for long.
    fast = {"networks.records": 8} if name.startswith("idm") else {}
    with pytest.raises(BadInput, match=why) as caught:
        distill(resolve(name, profile="small", options=fast), tiny.train, data=tiny, ipc=1, seed=0)
    assert "\n" not in str(caught.value)


def test_reconstructions_say_so(run):
    _, listed, _ = run("list", "methods")
    for line in listed.splitlines():
        if line.split()[0] in ("adv-kip", "robust-learning", "c2r"):
            assert line.endswith("(reconstruction: no public code)")
    for name in ("adv-kip", "robust-learning", "c2r"):
        assert METHODS.get(name).status == "reconstruction"
        assert any("no code is public" in d for d in METHODS.get(name).deviations)
    assert resolve("mtt+adversarial").status == "reconstruction"
    assert "reconstruction" in DEFENSES.get("adversarial").description


def test_runs_of_attacked_records_come_one_after_the_other():
    for name in ("kip+adversarial", "adv-kip"):
        recipe = resolve(name)
        assert resolve("kip").loop.shareable(resolve("kip"), 1)
        assert not recipe.loop.shareable(recipe, 1)
    coupled = resolve("c2r")
    assert coupled.reader.couples_records()
    assert not replace(coupled.reader, curriculum=None).couples_records()
