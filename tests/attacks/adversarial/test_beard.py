"""BEARD's metrics from its own logs give its published rows, to 0.01 percentage points."""

from __future__ import annotations

import pytest

from ddaudit.attacks.adversarial.beard import EvaluationLog, beard_metrics
from ddaudit.errors import BadInput
from ddaudit.models import Arch

# CIFAR-10, BACON, ConvNet: the evaluation logs that the authors ship (Code/metrics/white_box/BACON), percents.
CLEAN = {1: (44.95, 2.25), 10: (61.73, 2.29), 50: (69.95, 2.31)}
TARGETED = {  # FGSM, PGD, PGD-L2, CW
    1: ((29.59, 30.61, 33.73, 36.58), (3.01, 8.52, 8.71, 73.94)),
    10: ((39.13, 40.10, 44.06, 44.93), (2.85, 8.32, 8.50, 73.75)),
    50: ((44.68, 45.59, 50.81, 44.71), (3.01, 11.96, 12.22, 75.82)),
}
UNTARGETED = {  # FGSM, PGD, PGD-L2, DeepFool, CW, AutoAttack
    1: ((24.51, 20.78, 33.72, 11.49, 13.68, 17.64), (3.12, 8.79, 8.77, 1647.63, 74.66, 762.71)),
    10: ((33.27, 26.45, 44.05, 16.11, 11.84, 23.85), (2.84, 8.29, 8.46, 2102.68, 73.91, 1086.94)),
    50: ((38.16, 28.86, 50.80, 18.28, 8.31, 27.00), (3.68, 12.21, 9.18, 2374.80, 76.49, 968.53)),
}


def logs(table, *ipcs: int) -> list[EvaluationLog]:
    return [
        EvaluationLog(
            CLEAN[ipc][0] / 100, CLEAN[ipc][1], tuple(a / 100 for a in table[ipc][0]), table[ipc][1]
        )
        for ipc in ipcs
    ]


@pytest.mark.parametrize(
    ("table", "ipcs", "rr", "i_rr", "ae", "crei"),
    [
        (TARGETED, (1, 10, 50), 36.83, 84.37, 29.83, 33.33),
        (UNTARGETED, (1, 10, 50), 32.87, 50.49, 21.53, 27.20),
        (TARGETED, (1,), 19.78, 90.63, 29.70, 24.74),
        (TARGETED, (10,), 12.94, 88.33, 29.48, 21.21),
        (TARGETED, (50,), 6.99, 87.86, 31.89, 19.44),
        (UNTARGETED, (1,), 26.34, 59.18, 25.24, 25.79),
        (UNTARGETED, (10,), 28.24, 53.13, 25.94, 27.09),
        (UNTARGETED, (50,), 32.87, 47.87, 24.10, 28.48),
    ],
)
def test_published_rows(table, ipcs, rr, i_rr, ae, crei):
    found = beard_metrics(logs(table, *ipcs))
    got = [100 * v for v in (found.rr, found.i_rr, found.ae, found.crei)]
    assert got == pytest.approx([rr, i_rr, ae, crei], abs=0.0051)


def test_crei_on_the_improved_ratio_is_the_published_one():
    found = beard_metrics(logs(UNTARGETED, 1, 10, 50))
    assert 100 * found.i_crei == pytest.approx(36.01, abs=0.0051)


def test_the_plus_version_subtracts_what_attacks_add():
    """By hand: A 0.5; attacks 0.6 and 0.2: mean 0.4, worst 0.2, raised (0.1 + 0) / 2."""
    found = beard_metrics([EvaluationLog(0.5, 1.0, (0.6, 0.2), (2.0, 5.0))])
    assert found.i_rr == pytest.approx(1 - 0.1 * 0.3 / 0.25)
    assert found.i_rr_plus == pytest.approx(found.i_rr - 0.05)
    plain = beard_metrics(logs(TARGETED, 50))
    assert plain.i_rr_plus == plain.i_rr


def test_a_stronger_worst_attack_raises_rr_which_is_why_worst_stands_beside_it():
    weak = beard_metrics([EvaluationLog(0.6, 1.0, (0.4, 0.3), (2.0, 3.0))])
    strong = beard_metrics([EvaluationLog(0.6, 1.0, (0.4, 0.0), (2.0, 3.0))])
    assert strong.rr > weak.rr
    assert (weak.worst, strong.worst) == (0.3, 0.0)


def test_nothing_to_lose_gives_zero_not_a_division():
    found = beard_metrics([EvaluationLog(0.5, 2.0, (0.5,), (2.0,))])
    assert (found.rr, found.ae) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("log", "alpha", "says"),
    [
        (EvaluationLog(44.95, 2.0, (30.0,), (3.0,)), 0.5, "divide by 100"),
        (EvaluationLog(0.4, 2.0, (0.3, 0.2), (3.0,)), 0.5, "2 accuracies and 1 times"),
        (EvaluationLog(0.4, 2.0, (), ()), 0.5, "no attack"),
        (EvaluationLog(0.4, 2.0, (0.3,), (3.0,)), 1.5, "between 0 and 1"),
    ],
)
def test_bad_logs_are_one_line(log, alpha, says):
    with pytest.raises(BadInput, match=says):
        beard_metrics([log], alpha=alpha)


def test_dd_robustbench_has_the_released_budgets():
    """configs/params.yaml of the benchmark: eps in 255ths, steps of 2/255."""
    from ddaudit.attacks.adversarial.suite import dd_robustbench

    cells = dd_robustbench()
    found = {(c.name, round(c.eps * 255)) for c in cells}
    assert len(found) == len(cells) == 4 * 5 + 3 + 5 * 4
    for attack in ("pgd", "vmi-fgsm", "jitter", "cw-linf"):
        budgets = {
            (f"{attack}-10", 2),
            (f"{attack}-5", 2),
            (f"{attack}-5", 4),
            (f"{attack}-10", 4),
            (f"{attack}-10", 8),
        }
        assert budgets <= found
    steps = {
        c.attacks[0].alpha * 255
        for c in cells
        if c.name.split("-")[0] in ("pgd", "vmi", "jitter", "cw")
    }
    assert sorted(steps) == pytest.approx([2.0] * len(steps))
    assert {e for n, e in found if n == "autoattack-10"} == {1, 2, 3, 4}
    (hinge,) = {c.attacks[0].hinge for c in cells if c.name.startswith("cw")}
    assert hinge == 50.0


def test_as_coded_pgd_l2_is_clamping_alone_and_as_meant_is_not(tiny):
    """The defect: every normalised value below 0 is blanked, and after that the projection freezes the attack."""
    import torch

    from ddaudit.attacks.adversarial.beard import beard_pgd, clip_only
    from ddaudit.attacks.adversarial.execution import classify
    from ddaudit.models import build

    net = build(
        Arch.parse("ConvNetD1W8"), shape=tiny.shape, num_classes=4, seed=0, mean=tiny.mean, std=tiny.std
    )  # fmt: skip
    x = tiny.test.images[:40]
    y = classify(net, x.float() / 255)
    coded, meant = (beard_pgd(net, x, y, norm="L2", beard_compat=flag) for flag in (True, False))
    assert torch.equal(coded, clip_only(net, x) == y)
    assert not torch.equal(coded, meant)
    targeted = beard_pgd(net, x, y, targeted=True, beard_compat=True)
    assert targeted.shape == (40,)


@pytest.fixture(scope="module")
def trained(tiny, fitted):
    return fitted(tiny, Arch.parse("ConvNetD1W8"), 20)


def test_the_pools_are_the_ones_whose_logs_are_shipped():
    from ddaudit.attacks.adversarial.beard import pool

    for compat in (True, False):
        aimed, free = (
            [p.name for p in pool(targeted=t, beard_compat=compat)] for t in (True, False)
        )
        assert aimed == ["FGSM", "PGD Linf", "PGD L2", "CW"]
        assert free == [*aimed, "DeepFool", "AutoAttack"]


def test_both_modes_as_rows_with_the_ratios_that_the_metrics_give(trained, tiny):
    import torch

    from ddaudit.attacks.adversarial.beard_rows import RATIOS, emitted

    few = tiny.test.subset(torch.arange(6))
    rows = {
        (m.name, *(m.params.get(k) for k in ("mode", "aim", "attack"))): m
        for m in emitted([trained], few)
    }
    assert len(rows) == 1 + 2 * (6 + 4 + 2 * len(RATIOS))
    under = {
        mode: {k[3]: m.value for k, m in rows.items() if k[:3] == ("adversarial.beard_accuracy", mode, "untargeted")}
        for mode in ("as coded", "as meant")
    }  # fmt: skip
    clipped = rows["adversarial.beard_accuracy", "as coded", None, "clip only"].value
    assert under["as coded"]["PGD L2"] == clipped
    assert under["as meant"]["DeepFool"] == 0  # it has no radius
    assert rows["adversarial.beard_ae", "as meant", "targeted", None].low is None  # one timing
    clean = float((trained(few.pixels()).argmax(1) == few.labels).double().mean())
    for mode, found in under.items():
        mean, worst = sum(found.values()) / len(found), min(found.values())
        ratio = rows["adversarial.beard_rr", mode, "untargeted", None]
        assert ratio.value == pytest.approx((mean - worst) / (clean - worst))
        assert ratio.low <= ratio.value <= ratio.high
        crei, ae = (
            rows[f"adversarial.beard_{n}", mode, "untargeted", None].value for n in ("crei", "ae")
        )
        assert crei == pytest.approx((ratio.value + ae) / 2)


def test_cw_can_be_aimed(trained, tiny):
    from ddaudit.attacks.adversarial.execution import run
    from ddaudit.attacks.adversarial.minimum_norm import CarliniWagner

    x, y = tiny.test.images[:20], tiny.test.labels[:20]
    made = run(trained, x, y, [CarliniWagner(searches=6, towards=1)], eps=1e6, norm="L2")
    broken = made.clean_correct & ~made.survived
    says = trained(made.adversarial).argmax(1)
    assert broken.sum() > 5
    assert bool((says[broken] == (y[broken] + 1) % 4).all())
