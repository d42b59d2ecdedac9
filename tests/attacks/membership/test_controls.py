"""The controls: what they claim, that they are computed once, and what is said of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from ddaudit.attacks.membership import controls
from ddaudit.attacks.membership.auditor import Membership
from ddaudit.attacks.membership.controls import (
    Reading,
    against_dp_sgd,
    against_random,
    relation,
    target_of,
)
from ddaudit.attacks.membership.settings import MembershipSettings
from ddaudit.attacks.membership.shadows import Cohort, draw_halves
from ddaudit.auditing import PRESETS, Context, Subject
from ddaudit.data import Dataset, load_data
from ddaudit.distillation import resolve
from ddaudit.errors import BadInput
from ddaudit.findings import Finding
from ddaudit.models import Arch
from ddaudit.sets import PrivacyClaim
from ddaudit.stats import Interval
from ddaudit.training import PROTOCOLS

SETTINGS: dict[str, Any] = {
    "shadows": 4, "pool": 240, "victims_per_shadow": 1, "population": 80, "random_networks": 1,
    "attacks": ("lira", "nearest"), "control_runs": 3, "control_steps": 4, "control_delta": 1e-3,
}  # fmt: skip


@pytest.fixture
def ctx(tiny: Dataset, monkeypatch: pytest.MonkeyPatch) -> Context:
    monkeypatch.setitem(PROTOCOLS, "quick", replace(PROTOCOLS["quick"], epochs=3, epochs_plain=3))
    return Context(data=tiny, preset=PRESETS["quick"], arch=Arch.parse("ConvNetD2W8"), ipc=2)


def halves_of(ctx: Context, runs: int = 3, seed: int = 0) -> Cohort:
    return draw_halves(ctx, shadows=runs, pool=240, population=80, seed=seed)


def recipe_of(name: str) -> Subject:
    options: dict[str, Any] = {}
    if name == "ldpdc":
        options = {"reader.delta": 1e-3, "reader.batch": 20, "reader.epsilon": 3.0}
    return Subject(id=name, kind="recipe", recipe=resolve(name, options=options), identity=name)


def audit(auditor: Membership, name: str, ctx: Context, seed: int = 0, **settings: Any) -> Finding:
    return auditor.run(recipe_of(name), ctx, MembershipSettings(**{**SETTINGS, **settings}), seed)


# ---- the DP-SGD networks


def test_every_control_network_stays_within_its_epsilon(
    ctx: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Opacus' accountant, on what was really asked of every half."""
    from opacus.accountants import PRVAccountant

    gates = []
    honest = controls.open_private

    def spy(*args: Any, **kwargs: Any) -> Any:
        gates.append(honest(*args, **kwargs))
        return gates[-1]

    monkeypatch.setattr(controls, "open_private", spy)
    halves = halves_of(ctx)
    found = controls.dp_sgd(ctx, halves, runs=3, steps=4, epsilon=10.0, delta=1e-3, seed=0)
    assert found.params == {"control": "dp-sgd", "epsilon": 10.0}
    spent = []
    for source, members in zip(gates, halves.members, strict=True):
        (entry,) = source.gate.ledger("")
        size = int(members.sum())
        # a fifth of the smallest half, at the rate that this is of its own half
        assert entry.q == pytest.approx(round(0.2 * int(halves.members.sum(1).min())) / size)
        accountant = PRVAccountant()
        accountant.history = [(entry.sigma, entry.q, entry.count)]
        spent.append(accountant.get_epsilon(1e-3))
        assert entry.count == 4
    assert max(spent) <= 10.0 * 1.01
    assert min(spent) > 9.0  # not far below either


def test_batch_norm_gives_way(ctx: Context) -> None:
    assert str(controls.private_arch(Arch.parse("ConvNetD2W8BN"))) == "ConvNetD2W8"
    assert controls.private_arch(Arch.parse("LeNet")) == Arch.parse("LeNet")
    found = controls.dp_sgd(
        replace(ctx, arch=Arch.parse("ConvNetD1W4BN")), halves_of(ctx), runs=3, steps=4,
        epsilon=10.0, delta=1e-3, seed=0,
    )  # fmt: skip
    assert 0 <= found.accuracy.value <= 1


def test_the_target_is_the_claim_or_the_fixed_epsilon() -> None:
    fixed = {"epsilon": 10.0, "delta": 1e-5}
    assert target_of(None, **fixed) == (10.0, 1e-5)
    # calibration stops a little short of its target: one control serves all of these
    assert target_of(PrivacyClaim(epsilon=9.93, delta=1e-5), **fixed) == (10.0, 1e-5)
    assert target_of(PrivacyClaim(epsilon=9.93, delta=1e-4), **fixed) == (9.93, 1e-4)
    assert target_of(PrivacyClaim(epsilon=0.98765, delta=1e-5), **fixed) == (0.988, 1e-5)
    for empty in (1e9, float("inf"), 0.0):
        assert target_of(PrivacyClaim(epsilon=empty, delta=1e-5), **fixed) == (10.0, 1e-5)


# ---- known answers of the instrument


def test_an_overfitted_network_is_found_and_dp_sgd_is_not(ctx: Context) -> None:
    """The same attack, same halves: unprotected memory reads near 1, DP-SGD stays near one half."""
    halves = halves_of(ctx, runs=4)
    private = controls.dp_sgd(ctx, halves, runs=4, steps=20, epsilon=2.0, delta=1e-3, seed=0)
    check = controls.overfitted(ctx, halves, private, runs=4, seed=0)
    assert check.passed
    assert check.value is not None
    assert check.value > 0.85
    assert private.auc.value < 0.6
    assert check.affects == ["membership.control"]


def test_a_blind_attack_fails_the_check(ctx: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    halves = halves_of(ctx)
    private = controls.dp_sgd(ctx, halves, runs=3, steps=4, epsilon=10.0, delta=1e-3, seed=0)
    monkeypatch.setattr(
        controls,
        "lira_scores",
        lambda phi, members, *, pooled: phi[:, torch.randperm(phi.shape[1])],
    )
    assert not controls.overfitted(ctx, halves, private, runs=3, seed=0).passed


def test_the_auditor_runs_the_check_and_says_what_it_affects(ctx: Context) -> None:
    checks = Membership().checks(ctx, MembershipSettings(**SETTINGS))
    assert [c.passed for c in checks] == [True] * 6, checks
    assert checks[-1].name.startswith("overfitted")
    off = Membership().checks(ctx, MembershipSettings(**{**SETTINGS, "control_runs": 0}))
    assert len(off) == 5


# ---- beside a subject


def test_controls_stand_beside_a_reading(ctx: Context) -> None:
    found = audit(Membership(), "full", ctx)
    private = {"control": "dp-sgd", "epsilon": 10.0}
    for name, more in (
        ("membership.control_accuracy", {}),
        ("membership.control_auc", {"attack": "lira"}),
        ("membership.control_auc", {"attack": "loss"}),
        ("membership.control_tpr_at_fpr", {"attack": "lira", "fpr": 0.01}),
    ):
        metric = found.metric(name, **private, **more)
        assert metric.value is not None
        assert metric.low is not None
        assert metric.low <= metric.value
        assert metric.direction == "none"
        assert not metric.headline
    assert found.metric("membership.control_accuracy", control="random", ipc=2).value is not None
    victims = found.metric("membership.victim_accuracy")
    assert victims.value is not None
    assert victims.n == len(ctx.test())
    assert found.caveats[0].startswith("full and the DP-SGD control: ")
    assert found.caveats[1].startswith("full and the random control: ")
    assert any(c.label == "lira on DP-SGD (epsilon 10)" for c in found.curves)
    Finding.model_validate_json(found.model_dump_json())


def test_controls_can_be_left_out(ctx: Context) -> None:
    found = audit(Membership(), "full", ctx, control_runs=0)
    assert not any(m.name.startswith("membership.control") for m in found.metrics)
    assert not any("control: " in c for c in found.caveats)
    assert found.metric("membership.victim_accuracy").value is not None
    with pytest.raises(BadInput, match="at least 3 runs"):
        Membership().configure("quick", {"control_runs": 2})
    with pytest.raises(BadInput, match="positive multiples"):
        Membership().configure("quick", {"control_sizes": [0.0]})


def test_controls_are_computed_once_for_all_subjects(
    ctx: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    honest = controls.dp_sgd

    def count(*args: Any, **kwargs: Any) -> Reading:
        asked.append((kwargs["epsilon"], kwargs["seed"]))
        return honest(*args, **kwargs)

    monkeypatch.setattr(controls, "dp_sgd", count)
    auditor = Membership()
    first, second = (audit(auditor, name, ctx) for name in ("full", "random"))
    auditor.checks(ctx, MembershipSettings(**SETTINGS))
    assert asked == [(10.0, 0)]
    name = "membership.control_auc"
    assert first.metric(name, attack="lira", control="dp-sgd") == second.metric(name, attack="lira")
    audit(auditor, "ldpdc", ctx)
    audit(auditor, "full", ctx, seed=1)
    epsilons, seeds = zip(*asked, strict=True)
    assert epsilons == (10.0, pytest.approx(3.0, rel=0.02), 10.0)  # the claim's own, between
    assert seeds == (0, 0, 1)
    # another context shares nothing
    audit(auditor, "full", replace(ctx))
    assert len(asked) == 4


@pytest.mark.parametrize("name", ["random+mixup", "random+label-smoothing", "herding"])
def test_no_other_selection_passes_for_the_random_control(ctx: Context, name: str) -> None:
    """random+mixup was taken for it: whoever came first in a process gave the other its numbers."""
    auditor = Membership()
    trials = [
        auditor._shadows(recipe_of(n), ctx, MembershipSettings(**SETTINGS), 0)
        for n in (name, "random", "random")
    ]
    assert trials[0] is not trials[1]
    assert trials[1] is trials[2]


def test_the_random_row_is_its_own_control(ctx: Context) -> None:
    """The subset of the audit's size is the 'random' subject, run for run; computed apart it reads the same."""
    auditor = Membership()
    row = audit(auditor, "random", ctx)
    assert not any(m.params.get("control") == "random" for m in row.metrics)
    other = audit(auditor, "full", ctx)
    apart = controls.random_records(ctx, halves_of(ctx), ipc=2, runs=3, victims=1, seed=0)
    stored = other.metric("membership.control_auc", control="random", attack="lira")
    assert stored.value == pytest.approx(apart.auc.value)
    accuracy = other.metric("membership.control_accuracy", control="random")
    assert accuracy.value == pytest.approx(apart.accuracy.value)


def test_an_impossible_control_is_a_caveat_not_a_crash(ctx: Context) -> None:
    found = audit(Membership(), "full", ctx, control_delta=0.5)
    assert found.caveats[0].startswith("full has no DP-SGD control: ")
    assert "below 1 / n" in found.caveats[0]
    assert found.metric("membership.auc", attack="lira").value is not None
    settings = MembershipSettings(**{**SETTINGS, "control_delta": 0.5})
    assert len(Membership().checks(ctx, settings)) == 5


def test_several_seeds_say_which_one_speaks(ctx: Context) -> None:
    several = replace(ctx, preset=PRESETS["quick"].model_copy(update={"seeds": 2}))
    found = audit(Membership(), "full", several, seed=1)
    assert found.caveats[0].startswith("Seed 1: full and the DP-SGD control: ")


def test_sizes_follow_the_images_per_class(ctx: Context) -> None:
    halves = halves_of(ctx)
    assert controls.sizes_tried((0.5, 1.0, 1.2, 5.0), ctx, halves) == [1, 2, 10]
    assert controls.sizes_tried((1.0, 1000.0), ctx, halves) == [2]


# ---- the sentence


def reading(accuracy: float, auc: float, *, width: float = 0.02, **params: Any) -> Reading:
    def around(x: float) -> Interval:
        return Interval(x, x - width, x + width, 100)

    return Reading(params, around(accuracy), around(auc), ())


DP = {"control": "dp-sgd", "epsilon": 10.0}


def said(subject: Reading, private: Reading, claim: PrivacyClaim | None = None) -> str:
    return against_dp_sgd("dm", subject, private, delta=1e-5, runs=6, claim=claim)


@pytest.mark.parametrize(
    ("accuracy", "auc", "words"),
    [
        (
            0.7,
            0.60,
            "DP-SGD is both more accurate and less exposed: distillation bought no privacy",
        ),
        (0.7, 0.53, "bought no privacy here that the attack could see"),
        (0.7, 0.45, "paid for with accuracy"),
        (0.8, 0.60, "the set is more exposed than DP-SGD"),
        (0.8, 0.53, "nothing here speaks for the set being more private"),
        (0.8, 0.45, "the set is less exposed to this attack than DP-SGD"),
        (0.9, 0.60, "the accuracy is paid for with privacy"),
        (0.9, 0.53, "cannot tell the exposures apart"),
        (0.9, 0.45, "both more accurate and less exposed to this attack than DP-SGD"),
    ],
)
def test_the_verdict_follows_from_the_intervals(accuracy: float, auc: float, words: str) -> None:
    text = said(reading(accuracy, auc), reading(0.8, 0.52, **DP))
    assert words in text
    assert (
        f"trained on dm: accuracy {accuracy:.3f} [{accuracy - 0.02:.3f}, {accuracy + 0.02:.3f}]"
        in text
    )
    assert "AUC of 0.520 [0.500, 0.540]" in text
    assert "(epsilon 10, delta 1e-5)" in text
    assert "Only DP-SGD comes with a proof" in text


def test_overlapping_intervals_claim_nothing() -> None:
    """The same two values, told apart or not by their intervals alone; touching intervals overlap."""
    sure = said(reading(0.7, 0.6, width=0.01), reading(0.8, 0.52, width=0.01, **DP))
    unsure = said(reading(0.7, 0.6, width=0.2), reading(0.8, 0.52, width=0.2, **DP))
    assert "more accurate and less exposed" in sure
    assert "neither the accuracies nor the exposures can be told apart" in unsure
    low, high = Interval(0.5, 0.4, 0.6, 9), Interval(0.7, 0.6, 0.8, 9)
    assert relation(low, high) == relation(high, low) == "alike"
    assert relation(low, replace(high, low=0.61)) == "below"
    assert relation(replace(high, low=0.61), low) == "above"


def test_what_is_proven_depends_on_the_claim() -> None:
    ours, theirs = reading(0.7, 0.6), reading(0.8, 0.52, **DP)
    assert "Both claim the same bound" in said(ours, theirs, PrivacyClaim(epsilon=9.95, delta=1e-5))
    weak = said(ours, theirs, PrivacyClaim(epsilon=5000.0, delta=1e-5))
    assert "own claim is epsilon 5000; DP-SGD was trained for 10." in weak


def test_the_random_control_nearest_in_accuracy_is_chosen() -> None:
    sizes = [reading(a, 0.5, control="random", ipc=n) for n, a in ((1, 0.5), (5, 0.72), (10, 0.9))]
    matched = against_random("dm", reading(0.7, 0.6), sizes, runs=6)
    assert "trained on 5 real records per class" in matched
    assert (
        "the accuracies cannot be told apart, and by way of networks the records behind it are easier"
        in matched
    )
    assert "everybody can see the records that it holds" in matched
    assert "nearest in accuracy" not in matched
    assert "nearest in accuracy that was tried" in against_random(
        "dm", reading(0.62, 0.6), sizes[:1], runs=6
    )


def test_every_pair_of_relations_has_its_words() -> None:
    kinds = ("below", "alike", "above")
    assert set(controls._VERDICTS) == {(a, b) for a in kinds for b in kinds}


@pytest.mark.slow
def test_the_controls_on_digits() -> None:
    """Natural labels, real networks: DP-SGD at epsilon 10 is useful and hides what overfitting shows."""
    data = load_data("digits")
    ctx = Context(data=data, preset=PRESETS["quick"], arch=Arch.parse("ConvNetD2W32"), ipc=10)
    halves = draw_halves(ctx, shadows=6, pool=1200, population=600, seed=0)
    private = controls.dp_sgd(ctx, halves, runs=6, steps=60, epsilon=10.0, delta=1e-5, seed=0)
    assert private.accuracy.value > 0.8
    assert private.auc.value < 0.56
    networks = [
        [controls._memorise(ctx, halves.records.subset(row), seed=0, steps=200)]
        for row in halves.members
    ]
    readings = controls.read_networks(networks, ctx, halves, seed=0)
    known = controls.read(readings, halves, {}, runs=6)
    assert known.auc.low > private.auc.high
