"""``ddaudit list metrics`` says what auditors emit: every name, unit and direction of real audits, and no others."""

import json
import math
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ddaudit.auditing import AUDITORS, PRESETS, Context, Subject
from ddaudit.data import Dataset
from ddaudit.distillation import distill, resolve
from ddaudit.models import Arch
from ddaudit.sets import Poison

STORED = Path(__file__).parents[1] / "attacks" / "stored_findings.json"
"""Real audits by the auditors that distil again, which take long; its own test compares it with fresh ones."""
AUDITED = {
    "utility": {"bootstrap": 20, "cross_architectures": ("MLP",), "ranking": True},
    "calibration": {"bootstrap": 20, "simulations": 5, "shifted": 30, "matched": (1, 2, 4)},
    "bias": {"bootstrap": 20, "simulations": 20},
    "adversarial": {
        "images": 8,
        "autoattack_images": 4,
        "check_images": 4,
        "pgd_steps": 2,
        "transfer": ("full",),
        "beard_compat": True,
    },
    "corruption": {"images": 8, "types": ("contrast", "jpeg_compression")},
    "tail": {},
    "shift": {"images": 8},
    "noise": {"rates": (0.0, 0.9)},
    "ood": {"images": 20, "bootstrap": 20},
    "leakage": {"images": 20, "pairs": 0},
    "backdoor": {"images": 40, "poison_ratios": (0.1,), "full_victims": 1},
    "backdoor-scan": {
        "references": 5,
        "images": 100,
        "steps": 16,
        "patch_steps": 1,
        "epochs": 0,
    },
}
ENDS = {
    "0 to 1": (0, 1),
    "-1 to 1": (-1, 1),
    "0 or more": (0, math.inf),
    "any": (-math.inf, math.inf),
}


@pytest.fixture(scope="module")
def emitted(tiny) -> set[tuple[str, str, str]]:
    """(name, unit, direction) of the metrics of real audits."""
    preset = PRESETS["quick"].model_copy(update={"victims": 1})
    # Some wrong labels: a network that is always right has no best temperature, and emits none.
    held = tiny.validation.labels
    wrong = torch.where(torch.arange(len(held)) % 4 == 0, (held + 1) % 4, held)
    noisy = replace(tiny, validation=replace(tiny.validation, labels=wrong))
    # Few records of one class: a tail.
    keep = (noisy.train.labels != 2) | (torch.arange(len(noisy.train)) < 60)
    noisy = replace(noisy, train=noisy.train.subset(keep))
    twice = noisy.test.subset(torch.arange(len(noisy.test)).repeat_interleave(2))
    paired = replace(twice, groups=torch.arange(2).repeat(len(noisy.test)))
    noisy = replace(noisy, extra={"test_paired": paired})
    # Augmented, and with soft labels: the scores of DD-Ranking compare with what is not.
    noisy = replace(noisy, augment="flip")
    ctx = Context(data=noisy, preset=preset, arch=Arch.parse("ConvNetD1W8"), ipc=2)
    taught = {"labels.epochs": 1, "labels.width": 8}
    # Some training labels are wrong, and known to be.
    true = noisy.train
    given = torch.where(torch.arange(len(true)) % 5 == 0, (true.labels + 1) % 4, true.labels)
    mistaken = replace(noisy, train=replace(true, labels=given), extra={"train_true": true})
    found = set()
    for name, settings in AUDITED.items():
        auditor = AUDITORS.get(name)
        recipe = resolve("random+soft", options=taught) if name == "utility" else resolve("random")
        subject = Subject(id=recipe.name, kind="recipe", recipe=recipe, identity=recipe.name)
        if name == "backdoor-scan":
            subject = poisoned_file(tiny)
        asked = {"noise": mistaken, "backdoor-scan": tiny}.get(name, noisy)
        context = replace(ctx, data=asked)
        finding = auditor.run(subject, context, auditor.configure("quick", settings), 0)
        found |= {(m.name, m.unit, m.direction) for m in finding.metrics}
        ranges = {m.name: m.range for m in auditor.metrics}
        for m in finding.metrics:
            least, most = ENDS[ranges[m.name]]
            assert m.value is None or least <= m.value <= most, m
    return found


def poisoned_file(data: Dataset) -> Subject:
    """Twenty images a class, which some detectors need, and a trigger on the card that changes nothing."""
    made = distill(resolve("random"), data.train, data=data, ipc=20, seed=0)
    note = Poison(attack="none", status="simplified", threat_model="", target=0, trigger="blend")
    card = made.card.model_copy(update={"poison": note})
    trigger = {"keep": torch.ones(data.shape), "add": torch.zeros(data.shape)}
    return Subject(id="a file", kind="file", set=replace(made, card=card, trigger=trigger))


def stored() -> set[str]:
    """Names of the metrics of every stored finding."""
    auditors = "|".join(n.replace("-", "_") for n in AUDITORS.names())
    named = re.compile(rf"({auditors})\.[a-z_0-9]+")
    findings = json.loads(STORED.read_text())["findings"]
    return {m[0] for finding in findings.values() for key in finding if (m := named.match(key))}


def test_the_table_has_what_audits_emit_and_nothing_else(emitted):
    declared = {(m.name, m.unit, m.direction) for _, a in AUDITORS.items() for m in a.metrics}
    assert emitted <= declared, emitted - declared
    names = {name for name, _, _ in emitted} | stored()
    assert names == {name for name, _, _ in declared}


def test_every_line_of_the_table_can_be_read():
    for name, auditor in AUDITORS.items():
        names = [m.name for m in auditor.metrics]
        assert names, name
        assert len(set(names)) == len(names)
        assert set(auditor.labels) <= set(names)
        for metric in auditor.metrics:
            assert metric.name.startswith(f"{name.replace('-', '_')}.")
            assert 3 <= len(metric.meaning.split()) <= 20, metric
