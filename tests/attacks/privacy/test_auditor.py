"""The privacy auditor from recipe to finding, with honest and with broken private recipes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch

from ddaudit.attacks.privacy.auditor import Privacy, PrivacySettings
from ddaudit.attacks.privacy.claims import ON_CARD
from ddaudit.auditing import AUDITORS, PRESETS, Context, Subject
from ddaudit.data import Dataset
from ddaudit.distillation import Recipe, resolve
from ddaudit.errors import BadInput, Unsupported
from ddaudit.findings import Check, Finding, Metric
from ddaudit.models import Arch, build
from ddaudit.sets import Card, DistilledSet, LedgerEntry, PrivacyClaim
from ddaudit.training import PROTOCOLS

PRIVACY = Privacy()


@pytest.fixture(scope="module")
def ctx(tiny: Dataset) -> Context:
    PROTOCOLS.setdefault("five", replace(PROTOCOLS["quick"], name="five", epochs_plain=20))
    preset = PRESETS["quick"].model_copy(update={"victims": 1, "protocol": "five"})
    return Context(data=tiny, preset=preset, arch=Arch.parse("ConvNetD2W32"), ipc=2)


def _settings(**change: Any) -> PrivacySettings:
    return PRIVACY.configure("quick", {"canaries": 60, "networks": 4, **change})


def _subject(recipe: Recipe, name: str) -> Subject:
    return Subject(id=name, kind="recipe", recipe=recipe, identity=name)


def _private(**options: object) -> Recipe:
    small = {"loop.iterations": 40, "networks.width": 32, "reader.batch": 20}
    return resolve("ndpdc", profile="small", options={**small, **options})


def _check(finding: Finding, name: str) -> Check:
    return next(c for c in finding.checks if c.name.startswith(name))


def _any(finding: Finding) -> float:
    value = finding.metric("privacy.epsilon_lower_bound", adversary="any").value
    assert value is not None
    return value


def test_it_is_registered() -> None:
    assert type(AUDITORS.get("privacy")).__name__ == "Privacy"


def test_the_whole_training_set_gives_every_canary_away(ctx: Context) -> None:
    found = PRIVACY.run(_subject(resolve("full"), "full"), ctx, _settings(), 0)
    assert _any(found) > 1.5
    assert found.metric("privacy.canary_accuracy", adversary="nearest-copy").value == 1.0
    assert "No DP guarantee" in found.caveats[0]
    assert {c.label for c in found.curves} == {"final-set", "nearest-copy", "victims"}
    assert not found.checks
    with pytest.raises(KeyError):
        found.metric("privacy.epsilon_claimed")
    with pytest.raises(KeyError):
        found.metric("privacy.epsilon_lower_bound", adversary="intermediate")


def test_an_honest_private_recipe_keeps_its_claim(ctx: Context) -> None:
    """A claim is refuted wrongly in at most 5 % of runs; the noise of this one is fixed."""
    recipe = _private(**{"reader.epsilon": 2.0, "reader.noise_seed": 1})
    found = PRIVACY.run(_subject(recipe, "honest"), ctx, _settings(), 0)
    assert found.metric("privacy.epsilon_claimed").value == pytest.approx(2.0, rel=0.01)
    assert [c.name for c in found.checks if not c.passed] == [
        ON_CARD
    ]  # its noise seed is published
    assert _any(found) <= 2.0
    adversaries = {m.params["adversary"] for m in found.metrics if m.name.endswith("lower_bound")}
    assert adversaries == {"any", "final-set", "nearest-copy", "victims", "intermediate"}
    assert "ceiling of the claim" in {c.label for c in found.curves}
    headline = [m for m in found.metrics if m.headline]
    assert len(headline) == 2
    for m in found.metrics:
        assert isinstance(m, Metric)
        assert m.value is not None
        assert m.value >= 0
        assert m.low is None or m.low <= m.value
    assert Finding.model_validate_json(found.model_dump_json()) == found
    decisive = [m for m in found.metrics if m.refutes]
    assert [(m.params, m.refutes) for m in decisive] == [
        ({"adversary": "any", "method": "one-run"}, "privacy.epsilon_claimed")
    ]
    bounds = [m for m in found.metrics if m.name.endswith("lower_bound")]
    assert all(m.merge == "bound" and m.best_of[1] == m.value for m in bounds)
    assert all(sorted(m.best_of.values(), reverse=True) == [*m.best_of.values()] for m in bounds)


@dataclass(frozen=True)
class _Boastful:
    """Planted bug: a reader that adds almost no noise and claims what it was asked to claim."""

    inner: Any
    epsilon: float

    @property
    def private(self) -> bool:
        return True

    def check(self, data: Any) -> None:
        self.inner.check(data)

    def open(self, *args: Any, **kwargs: Any) -> Any:
        source, epsilon = self.inner.open(*args, **kwargs), self.epsilon
        honest = source.claims
        source.claims = lambda: [c.model_copy(update={"epsilon": epsilon}) for c in honest()]
        return source


def test_noise_that_was_forgotten_is_noticed(ctx: Context) -> None:
    """The ledger gives it away on paper, the canaries give it away in the data."""
    recipe = _private(**{"reader.sigma": 0.2, "reader.noise_seed": 1})
    broken = replace(recipe, reader=_Boastful(recipe.reader, 0.5))
    found = PRIVACY.run(_subject(broken, "broken"), ctx, _settings(), 0)
    held = _check(found, "claim holds")
    assert not held.passed
    assert held.subject == "broken"
    assert held.affects == ["privacy.epsilon_claimed"]
    assert held.refutes == "privacy.epsilon_claimed"
    assert held.p_value is not None
    assert held.p_value < 0.05
    assert _any(found) > 0.5
    assert not _check(found, "claim: the ledger").passed


def test_asking_for_the_intermediate_attack_alone_needs_a_private_recipe(ctx: Context) -> None:
    only = _settings(adversaries=("intermediate",))
    with pytest.raises(Unsupported, match="private recipe"):
        PRIVACY.run(_subject(resolve("random"), "random"), ctx, only, 0)


def _file(claim: PrivacyClaim | None) -> Subject:
    released = DistilledSet(torch.rand(8, 3, 8, 8), torch.arange(8) % 4, 4, Card(privacy=claim))
    return Subject(id="file", kind="file", set=released)


def test_a_file_has_only_its_claim_verified(ctx: Context) -> None:
    entry = LedgerEntry(query="sums", sigma=2.0, q=0.1, count=10)
    claim = PrivacyClaim(epsilon=3.0, delta=1e-5, ledger=[entry])
    found = PRIVACY.run(_file(claim), ctx, _settings(), 0)
    assert found.status == "partial"
    assert "only its claim was verified" in (found.reason or "")
    assert [m.name for m in found.metrics] == ["privacy.epsilon_claimed"]
    assert all(c.passed for c in found.checks)
    assert len(found.checks) == 4
    wishful = claim.model_copy(update={"epsilon": 0.1})
    found = PRIVACY.run(_file(wishful), ctx, _settings(), 0)
    assert not _check(found, "claim: the ledger").passed


def test_files_without_a_claim_and_checkpoints_are_not_supported(ctx: Context) -> None:
    with pytest.raises(Unsupported, match="a file is its result; it carries no privacy claim"):
        PRIVACY.run(_file(None), ctx, _settings(), 0)
    tiny = ctx.data
    net = build(ctx.arch, shape=tiny.shape, num_classes=4, seed=0, mean=tiny.mean, std=tiny.std)
    with pytest.raises(Unsupported, match="a checkpoint is its result"):
        PRIVACY.run(Subject(id="c", kind="checkpoint", network=net), ctx, _settings(), 0)


def test_checks_pass_on_small_data(ctx: Context) -> None:
    checks = PRIVACY.checks(ctx, _settings())
    assert [c.name for c in checks if not c.passed] == []
    assert all(c.subject is None for c in checks)
    assert len(checks) == 11


@pytest.mark.parametrize(
    "bad",
    [
        {"canaries": 3},
        {"shares": ((0.7, 0.7),)},
        {"shares": ()},
        {"delta": 1.0},
        {"kinds": ("odd",)},
    ],
)
def test_impossible_settings_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(BadInput, match=r"privacy\.\w+"):
        PRIVACY.configure("quick", bad)


def test_presets_only_shrink() -> None:
    quick, standard, full = (PRIVACY.configure(p) for p in ("quick", "standard", "full"))
    assert quick.canaries < standard.canaries < full.canaries
    assert quick.shares == standard.shares == full.shares
