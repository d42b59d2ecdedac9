"""A synthetic run with everything a report can meet: baselines, claims, skipped cells, failed checks, odd names."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch

from ddaudit.auditing import AUDITORS as REGISTERED
from ddaudit.findings import CLAIMED, Caveat, Check, Curve, Finding, Metric, Picture
from ddaudit.reports import Report, build_report
from ddaudit.reports.pictures import gallery

N = 10_000
HOSTILE = "<script>alert('x')</script>"


@dataclass
class FakeRun:
    """What ``ddaudit.audits`` will hand to ``build_report``."""

    info: Mapping[str, Any]
    subjects: Sequence[Mapping[str, Any]]
    auditors: Sequence[Mapping[str, Any]]
    cells: Sequence[Finding]
    checks: Mapping[str, Sequence[Check]] = field(default_factory=dict)


def binomial(name: str, p: float, *, n: int = N, **kwargs: Any) -> Metric:
    """A fraction with a plain normal interval."""
    half = 1.96 * math.sqrt(max(p * (1 - p), 1e-4) / n)
    low, high = max(0.0, p - half), min(1.0, p + half)
    return Metric(name=name, value=p, low=low, high=high, n=n, **kwargs)


#        subject        acc   auc   tpr01  asr   rob   ece   deo_m deo_a  eps  eps_lb
WORLD: dict[str, tuple[float, ...]] = {
    "full": (0.953, 0.521, 0.0014, 0.104, 0.412, 0.031, 0.21, 0.08, math.nan, math.nan),
    "random": (0.611, 0.993, 0.912, 0.118, 0.236, 0.147, 0.71, 0.35, math.nan, math.nan),
    "herding": (0.664, 0.991, 0.887, 0.113, 0.241, 0.139, 0.74, 0.37, math.nan, math.nan),
    "dm": (0.352, 0.588, 0.0091, 0.972, 0.112, 0.224, 0.98, 0.71, math.nan, math.nan),
    "dm+fair": (0.718, 0.571, 0.0067, 0.934, 0.205, 0.118, 0.31, 0.12, math.nan, math.nan),
    "dm+dp": (0.497, 0.509, 0.0011, 0.281, 0.187, 0.162, 0.66, 0.29, 1.0, 2.31),
    "psg": (0.534, 0.503, 0.0010, 0.246, 0.201, 0.151, 0.62, 0.26, 10.0, 1.42),
}

MORE: dict[str, tuple[float, ...]] = {
    "idm": (0.371, 0.591, 0.0095, 0.969, 0.118, 0.219, 0.97, 0.70, math.nan, math.nan),
    "mtt": (0.402, 0.602, 0.0102, 0.958, 0.121, 0.208, 0.96, 0.69, math.nan, math.nan),
    "mtt+fair": (0.709, 0.577, 0.0071, 0.941, 0.199, 0.121, 0.33, 0.13, math.nan, math.nan),
    "dp-merf": (0.288, 0.502, 0.0010, 0.119, 0.098, 0.241, 0.97, 0.72, 10.0, 0.61),
    "dp-merf+fair": (0.301, 0.501, 0.0011, 0.121, 0.101, 0.233, 0.71, 0.44, 10.0, 0.44),
}
"""Five more candidates: with :data:`WORLD` a run of twelve subjects."""

AUDITORS: list[dict[str, Any]] = [
    {
        "name": "utility",
        "title": "Utility",
        "question": "How well do networks trained on the set do on real test images?",
        "threat_model": "None. This is the baseline that every other number must be weighed against.",
        "how_to_read": "Compare with the random subset of the same size (what the distillation buys) and "
        "with the full data (what it costs).",
        "sources": [
            "Zhao & Bilen, Dataset Condensation with Gradient Matching, ICLR 2021, section 4"
        ],
        "settings": {"victims": 2},
    },
    {
        "name": "membership",
        "title": "Membership",
        "question": "Can somebody who only sees the distilled set tell whether a person's record was used?",
        "threat_model": "The attacker has the published set, trains networks on it, knows the method and can "
        "distil sets of other records (shadow distillation). It never sees the real training data.",
        "how_to_read": "AUC 0.5 is a coin flip. What matters is the true-positive rate at a very low "
        "false-positive rate: at 0.1% FPR, 0.001 is chance, and anything above singles out people.",
        "sources": [
            "Carlini et al., Membership Inference Attacks From First Principles, S&P 2022, section III"
        ],
        "settings": {"shadows": 32, "fpr": [0.001, 0.01]},
    },
    {
        "name": "backdoor",
        "title": "Backdoor",
        "question": "Does a trigger planted in the real data survive distillation?",
        "threat_model": "An attacker stamps a small patch on a few percent of one class before distillation, "
        "and later on the inputs of the deployed network.",
        "how_to_read": "Attack success near the share of the target class is harmless; near 1 the trigger "
        "owns the network.",
        "sources": ["Liu et al., Backdoor Attacks Against Dataset Distillation, NDSS 2023"],
    },
    {
        "name": "adversarial",
        "title": "Adversarial robustness",
        "question": "How accurate are the networks when every input is perturbed against them?",
        "threat_model": "White box: the attacker has the network and moves each pixel by at most ε.",
        "how_to_read": "Robust accuracy counts only when the gradient-masking checks pass.",
        "sources": ["Croce & Hein, Reliable evaluation of adversarial robustness, ICML 2020"],
    },
    {
        "name": "calibration",
        "title": "Calibration",
        "question": "When the network says 90 %, is it right nine times out of ten?",
        "threat_model": "None.",
        "how_to_read": "ECE 0 is perfect. A small test set shows a positive ECE even then: that is the noise floor.",
        "sources": ["Guo et al., On Calibration of Modern Neural Networks, ICML 2017"],
    },
    {
        "name": "bias",
        "title": "Bias",
        "question": "Does the network treat groups (here: colours) alike?",
        "threat_model": "None. Bias in the real data can be amplified by distillation.",
        "how_to_read": "DEO_M is the worst class's gap between groups, DEO_A the average gap; 0 is fair.",
        "sources": ["FairDD, NeurIPS 2025, arXiv 2411.19623, section 4"],
    },
]


def _cells(name: str, seed: int, rng: np.random.Generator) -> list[Finding]:
    world = WORLD | MORE
    acc, auc, tpr, asr, rob, ece, deo_m, deo_a, _, lower = (
        v
        if math.isnan(v)
        else min(1.0, max(0.0, v + 0.006 * rng.standard_normal()))
        if v < 1
        else v
        for v in world[name]
    )
    fpr = np.geomspace(1e-4, 1, 60)
    power = math.log(max(tpr, 1.05e-3)) / math.log(1e-3)
    bins = np.linspace(0.05, 0.95, 10)
    eps = [0.0, 1 / 255, 2 / 255, 4 / 255, 8 / 255]
    membership = [
        binomial("membership.auc", auc, direction="lower", floor=0.52, headline=True, params={"attack": "lira"}),
        *(
            binomial(
                "membership.tpr_at_fpr", float(f**power), direction="lower", floor=2 * f,
                headline=f == 0.001, params={"attack": "lira", "fpr": f}, n=600,
            )
            for f in (0.001, 0.01)
        ),
    ]  # fmt: skip
    if not math.isnan(lower):
        membership.append(
            Metric(name="privacy.epsilon_lower_bound", value=lower, low=0.8 * lower, high=None, n=600, unit="epsilon",
                   direction="lower", headline=True, params={"adversary": "lira", "delta": 1e-5},
                   merge="bound", best_of={1: lower, 3: lower}, refutes=CLAIMED)
        )  # fmt: skip
    return [
        Finding(subject=name, auditor="utility", seed=seed, seconds=4.2, metrics=[
            binomial("utility.accuracy", acc, direction="higher", headline=True, basis=True),
            binomial("utility.balanced_accuracy", acc - 0.003, direction="higher"),
        ]),
        Finding(subject=name, auditor="membership", seed=seed, seconds=9.0, metrics=membership, curves=[
            Curve(plot="ROC, log-log", label="lira", x=list(map(float, fpr)), y=[float(f**power) for f in fpr],
                  x_label="false-positive rate", y_label="true-positive rate", log_x=True, log_y=True, diagonal=True),
        ], caveats=["Shadow sets are distilled from half of the data, so the attack sees slightly different sets."]),
        Finding(subject=name, auditor="backdoor", seed=seed, seconds=6.0, metrics=[
            binomial("backdoor.cta", acc - 0.01, direction="higher", headline=True),
            binomial("backdoor.asr", asr, direction="lower", headline=True, floor=0.1, params={"variant": "exclusive"}),
            binomial("backdoor.asr", min(1.0, asr + 0.02), direction="lower", floor=0.19,
                     params={"variant": "inclusive"}),
        ], images=[_trigger()] if name == "dm" and seed == 0 else []),
        Finding(subject=name, auditor="adversarial", seed=seed, seconds=9.5, metrics=[
            binomial("adversarial.robust_accuracy", max(0.0, acc - (acc - rob) * (e * 255 / 4)), direction="higher",
                     headline=a == "pgd" and e == 4 / 255, params={"attack": a, "norm": "linf", "eps": e})
            for a in ("fgsm", "pgd", "autoattack") for e in eps[1:4]
        ], curves=[
            Curve(plot="robust accuracy", label="pgd", x=eps,
                  y=[acc * math.exp(-e * 40 * acc / max(rob, 0.05)) for e in eps],
                  x_label="ε (pixel units, l∞)", y_label="robust accuracy"),
        ], checks=[Check(name="no gradient masking", passed=name != "herding",
                         value=0.02 if name != "herding" else 0.31,
                         expected="<= 0.05 gained by a black-box attack", subject=name, affects=["adversarial."])]),
        Finding(subject=name, auditor="calibration", seed=seed, seconds=1.0, metrics=[
            binomial("calibration.ece", ece, direction="lower", floor=0.012, headline=True,
                     params={"binning": "equal-width", "stage": "raw"}),
            binomial("calibration.ece", ece / 3, direction="lower", floor=0.012,
                     params={"binning": "equal-width", "stage": "temperature"}),
            Metric(name="calibration.temperature", value=1 + 5 * ece, low=0.9 + 5 * ece, high=1.1 + 5 * ece,
                   n=N, unit="1"),
        ], curves=[
            Curve(plot="reliability", label="raw", kind="bars", x=list(map(float, bins)),
                  y=[float(max(0.0, b - ece * 2 * b)) for b in bins], counts=[N // 10] * 10,
                  low=[float(max(0.0, b - ece * 2 * b - 0.03)) for b in bins],
                  high=[float(min(1.0, b - ece * 2 * b + 0.03)) for b in bins],
                  x_label="confidence", y_label="accuracy", diagonal=True),
        ]),
        Finding(subject=name, auditor="bias", seed=seed, seconds=2.0, metrics=[
            binomial("bias.deo_m", deo_m, n=400, direction="lower", floor=0.24, headline=True),
            binomial("bias.deo_a", deo_a, n=4000, direction="lower", floor=0.09, headline=True),
            binomial("bias.equalized_odds_difference", min(1.0, deo_m + 0.02), n=400, direction="lower", floor=0.25),
        ]),
    ]  # fmt: skip


def _trigger() -> Picture:
    image = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(3))
    image[:, :, 6:, 6:] = torch.tensor([1.0, 1.0, 0.0])[None, :, None, None]
    picture = gallery(image, torch.arange(2), name="trigger")
    return picture.model_copy(
        update={"caption": "Two triggered test images; the patch is the lower right corner."}
    )


def _card(name: str) -> dict[str, Any]:
    epsilon = (WORLD | MORE)[name][8]
    card: dict[str, Any] = {
        "format_version": "1", "method": name, "ipc": 10, "data": "digits-colored", "seed": 0,
        "recipe": {"objective": "MeanEmbedding", "steps": 300}, "deviations": ["300 steps instead of 20 000"],
        "versions": {"torch": "2.6.0", "ddaudit": "0.1.0"}, "seconds": 31.4, "notes": [],
    }  # fmt: skip
    if not math.isnan(epsilon):
        card["privacy"] = {
            "epsilon": epsilon, "delta": 1e-5, "relation": "add-or-remove-one", "accountant": "pld",
            "mechanism": "Gaussian sum of clipped signals", "sampling": "poisson", "clip": 1.0,
            "ledger": [{"query": "class means", "sigma": 4.2, "q": 0.02, "count": 300}],
            "cross_checks": {"rdp": epsilon * 1.07, "prv": epsilon * 1.001},
            "public": ["class counts", "normalisation constants"],
            "noise_seed_published": False,
        }  # fmt: skip
    return card


def _gallery(name: str) -> list[Picture]:
    seed = sum(map(ord, name))
    g = torch.Generator().manual_seed(seed)
    classes = torch.arange(10).repeat_interleave(3)
    base = torch.rand(10, 3, 8, 8, generator=g)
    return [
        gallery(base[classes] * 0.8 + 0.3 * torch.randn(30, 3, 8, 8, generator=g) + 0.1, classes)
    ]


def make(
    *,
    seeds: Sequence[int] = (0, 1, 2),
    preset: str = "quick",
    hostile: bool = False,
    galleries: bool = True,
    names: Sequence[str] = tuple(WORLD),
) -> FakeRun:
    """The synthetic run: seven subjects (three baselines), six auditors."""
    rng = np.random.default_rng(0)
    cells = [c for seed in seeds for name in names for c in _cells(name, seed, rng)]
    skipped = "a checkpoint comes without its distilled set, so nothing can be distilled again"
    cells = [c for c in cells if (c.subject, c.auditor) != ("psg", "backdoor")]
    cells += [
        Finding(subject="psg", auditor="backdoor", status="skipped", reason=skipped, seed=s)
        for s in seeds
    ]
    rename = {"psg": f"psg-{HOSTILE}-私的蒸留-🔒" * 1} if hostile else {}
    if hostile:
        cells = [c.model_copy(update={"subject": rename.get(c.subject, c.subject)}) for c in cells]
        cells[0].caveats.append(
            f"{HOSTILE} & $x_1^2$ | pipe ![img](http://evil.example/x.png) @someone #1 ‮rtl"
        )
        cells[0].metrics.append(
            Metric(name="utility.nan", value=math.nan, low=-math.inf, high=math.inf, headline=True)
        )
        cells[1].metrics.append(Metric(name="utility.none", value=None))
    checks = {
        "utility": [Check(name="linear model on separable data", passed=True, value=1.0, expected=">= 0.99")],
        "membership": [
            Check(name="randomised response, ε = 2", passed=True, value=1.87, expected="<= 2 and >= 1.5"),
            Check(name="a victim that memorised its members", passed=True, value=0.998, expected="AUC >= 0.95"),
        ],
        "backdoor": [Check(name="planted trigger is found", passed=True, value=0.99, expected=">= 0.9")],
        "adversarial": [
            Check(name="closed-form robust accuracy of a linear model", passed=True, value=0.4131,
                  expected="0.4130 ± 0.002"),
        ],
        "calibration": [
            Check(name="perfectly calibrated simulator", passed=False, value=0.034, expected="<= 0.012",
                  detail="the simulator reads above its own floor", affects=["calibration.ece"]),
        ],
        "bias": [Check(name="perfectly fair simulator", passed=True, value=0.22, expected="<= floor 0.24")],
    }  # fmt: skip
    return FakeRun(
        info={
            "data": "digits-colored", "data_notes": ["Colours overflow in 2 of 10 000 images, as published."],
            "preset": preset, "profile": "small", "seeds": list(seeds), "ipc": 10, "arch": "ConvNetD2W32",
            "protocol": "quick (30 epochs, DSA)", "device": "cpu, 2 cores",
            "versions": {"python": "3.11.9", "torch": "2.6.0"},
            "started": "2026-01-05T10:00:00Z", "finished": "2026-01-05T10:11:42Z",
            "command": "ddaudit audit dm dm+fair dm+dp psg --data digits-colored --preset quick",
            "config": {"preset": preset, "auditors": {"membership": {"shadows": 32}}}, "ddaudit_version": "0.1.0",
        },
        subjects=[
            {
                "id": rename.get(name, name), "kind": "recipe", "baseline": name in ("full", "random", "herding"),
                "card": _card(name), "description": "", "source": "", "seconds": 31.4,
                "gallery": _gallery(name) if galleries and name != "full" else [],
            }
            for name in names
        ],
        auditors=AUDITORS,
        cells=cells,
        checks=checks,
    )  # fmt: skip


@pytest.fixture(scope="session")
def make_run() -> Callable[..., FakeRun]:
    """The maker of the synthetic run, for tests that need a variant."""
    return make


@pytest.fixture(scope="session")
def report() -> Report:
    """The report of the synthetic run."""
    return build_report(make())


@pytest.fixture(scope="session")
def twelve() -> Report:
    """A report of twelve subjects, with the texts of the real auditors and caveats as they have them."""
    run = make(seeds=(0, 1), names=(*WORLD, *MORE))
    texts = ("title", "question", "threat_model", "how_to_read")
    run.auditors = [
        {**a, **{k: getattr(REGISTERED.get(a["name"]), k) for k in texts}} for a in run.auditors
    ]
    for cell in run.cells:
        small = f"{cell.auditor} read {cell.subject} on {len(cell.subject)} records: few. So it says little."
        cell.caveats += [
            Caveat(f"A low reading of {cell.auditor} proves nothing. Another test may find more.", rank=1),
            Caveat(small, "sample", 2),
        ]  # fmt: skip
    return build_report(run)


@pytest.fixture(scope="session")
def hostile_report() -> Report:
    """The same with hostile and wide strings, NaN, infinities and missing values."""
    return build_report(make(hostile=True))
