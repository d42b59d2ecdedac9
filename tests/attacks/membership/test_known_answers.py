"""The instrument checks fail for instruments that are broken: every one is tried on mutants."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from scipy.stats import norm

from ddaudit.attacks.membership import attacks, known_answers
from ddaudit.attacks.membership.auditor import Membership
from ddaudit.attacks.membership.scores import lira
from ddaudit.attacks.membership.settings import MembershipSettings
from ddaudit.attacks.membership.shadows import Cohort
from ddaudit.auditing import PRESETS, Context
from ddaudit.data import Dataset, ImageData, load_data
from ddaudit.models import Arch
from ddaudit.stats import auc, pooled

ARCH = Arch.parse("ConvNetD2W8")


@pytest.fixture(scope="module")
def ctx() -> Context:
    return Context(data=load_data("digits"), preset=PRESETS["quick"], arch=ARCH)


def shadows(ctx: Context) -> tuple[Any, Any]:
    return (
        known_answers.simulated_shadows(ctx, distance=1.0),
        known_answers.simulated_shadows(ctx, distance=0.0),
    )


def test_a_sound_instrument_passes_on_ten_sets_of_seeds(
    ctx: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    seed_for = Context.seed_for
    for run in range(10):
        monkeypatch.setattr(Context, "seed_for", lambda self, *a, run=run: seed_for(self, run, *a))
        checks = [*shadows(ctx), known_answers.nonmembers_only(ctx)]
        assert all(c.passed for c in checks), checks


def test_the_expected_values_tend_to_the_closed_form() -> None:
    """With 400 references LiRA is nearly the likelihood ratio of N(0, 1) and N(1, 1)."""
    g = torch.Generator().manual_seed(0)
    area, rate = known_answers._ideal_lira(1.0, references=400, generator=g, draws=50_000)
    assert area == pytest.approx(norm.cdf(1 / 2**0.5), abs=0.008)
    assert rate == pytest.approx(norm.sf(norm.isf(0.01) - 1), abs=0.012)
    few, _ = known_answers._ideal_lira(1.0, references=7, generator=g, draws=50_000)
    assert 0.65 < few < area - 0.02


@pytest.mark.parametrize("classes", [2, 3, 10, 100])
def test_a_table_of_labels_reads_the_closed_form(classes: int) -> None:
    """Simulated: the members' labels known for sure, the others answered at random and just as surely."""
    g = torch.Generator().manual_seed(classes)
    areas = []
    for _ in range(300):
        sure = torch.rand(300, generator=g, dtype=torch.float64)
        labels, answers = torch.randint(classes, (2, 300), generator=g)
        members = torch.arange(300) < 150
        answers = torch.where(members, labels, answers)
        areas.append(auc(torch.where(answers == labels, sure, sure - 2), members).value)
    area, error = known_answers.memorised_area(classes, members=150, nonmembers=150)
    seen = torch.tensor(areas)
    assert area == 1 - 1 / (2 * classes)
    assert float(seen.mean()) == pytest.approx(area, abs=4 * error / 300**0.5)
    assert float(seen.std()) == pytest.approx(error, rel=0.2)  # relative error of a deviation: 4 %


def _classes(count: int) -> Context:
    """Random pictures of as many classes."""
    g = torch.Generator().manual_seed(count)
    images = torch.randint(256, (400, 1, 6, 6), dtype=torch.uint8, generator=g)
    names = tuple(f"{k:03d}" for k in range(count))
    records = ImageData(images=images, labels=torch.arange(400) % count, class_names=names)
    data = Dataset(
        name="noise", train=records, validation=records, test=records, mean=(0.5,), std=(0.3,)
    )
    return Context(data=data, preset=PRESETS["quick"], arch=ARCH)


@pytest.mark.parametrize("classes", [2, 3, 10, 100])
def test_memory_is_found_and_its_absence_too(monkeypatch: pytest.MonkeyPatch, classes: int) -> None:
    ctx = _classes(classes)
    assert known_answers.memorised_victim(ctx).passed
    fit = known_answers._fit

    def elsewhere(images: Any, labels: Any, count: int, g: torch.Generator, *, steps: int) -> Any:
        """A victim that memorised other labels than its members'."""
        return fit(images, torch.randint(count, labels.shape, generator=g), count, g, steps=steps)

    monkeypatch.setattr(known_answers, "_fit", elsewhere)
    assert not known_answers.memorised_victim(ctx).passed


def swapped(monkeypatch: pytest.MonkeyPatch) -> None:
    fit = lira.fit
    monkeypatch.setattr(lira, "fit", lambda phi, inside, **kw: fit(phi, ~inside, **kw))


def own_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attacks, "other_runs", lambda index, count: list(range(count)))


def global_threshold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lira, "online", lambda phi, fitted: phi)


def shifted_threshold(monkeypatch: pytest.MonkeyPatch) -> None:
    rate = pooled.pooled_tpr
    monkeypatch.setattr(
        known_answers, "pooled_tpr", lambda s, m, fpr, **kw: rate(s, m, 3 * fpr, **kw)
    )


@pytest.mark.parametrize(
    ("mutant", "broken"),
    [
        (swapped, [True, False]),
        (own_reference, [True, True]),
        (global_threshold, [True, False]),
        (shifted_threshold, [True, True]),
    ],
)
def test_broken_attacks_fail(
    ctx: Context,
    monkeypatch: pytest.MonkeyPatch,
    mutant: Callable[[pytest.MonkeyPatch], None],
    broken: list[bool],
) -> None:
    """In and out swapped, the target among its own references, one threshold for all, a wrong rate."""
    mutant(monkeypatch)
    checks = shadows(ctx)
    assert [not c.passed for c in checks] == broken, checks
    assert all(c.affects == ["membership."] for c in checks)


def test_sides_of_another_composition_fail_the_nonmembers_check(
    ctx: Context, monkeypatch: pytest.MonkeyPatch, flattened: Callable[..., Cohort]
) -> None:
    assert known_answers.nonmembers_only(ctx).passed
    monkeypatch.setattr(known_answers, "split", flattened)
    assert not known_answers.nonmembers_only(ctx).passed


def test_a_score_of_the_position_fails_the_nonmembers_check(
    ctx: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A score that knows the order of records (members come first) separates two kinds of non-members."""
    monkeypatch.setattr(known_answers, "negative_loss", lambda z, y: -torch.arange(len(y)).double())
    assert not known_answers.nonmembers_only(ctx).passed


def test_a_victim_that_saw_its_members_fails_the_nonmembers_check(
    ctx: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Were one side among what the network has learnt, the check would fail."""
    draw = known_answers.split
    seen: list[Cohort] = []

    def spying(*args: Any, **kw: Any) -> Cohort:
        seen.append(draw(*args, **kw))
        return seen[-1]

    def leaking(*args: Any, **kw: Any) -> Any:
        own = seen[-1].records.subset(seen[-1].members[0])
        answers = 10.0 * torch.nn.functional.one_hot(own.labels, 10)

        def network(pixels: Any) -> Any:
            near = torch.cdist(pixels.flatten(1), own.pixels().flatten(1)).min(1)
            return answers[near.indices] * (near.values < 1e-3)[:, None]

        return network

    monkeypatch.setattr(known_answers, "split", spying)
    monkeypatch.setattr(known_answers, "_fit", leaking)
    assert not known_answers.nonmembers_only(ctx).passed


def test_the_auditor_runs_all_of_them(tiny: Dataset) -> None:
    small = Context(data=tiny, preset=PRESETS["quick"], arch=ARCH)
    checks = Membership().checks(small, MembershipSettings(control_runs=0))
    assert [c.passed for c in checks] == [True] * 5, checks
    assert len({c.name for c in checks}) == 5
