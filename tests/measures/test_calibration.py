"""The calibration auditor: stages, planted temperature, honest intervals, checks that can fail."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch

from ddaudit.auditing import AUDITORS
from ddaudit.data import Dataset, ImageData
from ddaudit.measures import calibration, scores
from ddaudit.measures.calibration import Calibration, CalibrationSettings, stage_metrics
from ddaudit.measures.ece import ece

SETTINGS = CalibrationSettings(bootstrap=200, simulations=50, shifted=100, matched=())


def _split(n: int, seed: int) -> tuple[ImageData, torch.Tensor]:
    """Images whose two pixels carry a record number, and calibrated logits for them."""
    g = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(n, 4, generator=g)
    labels = torch.multinomial(logits.softmax(1), 1, generator=g)[:, 0]
    images = torch.randint(256, (n, 1, 2, 2), dtype=torch.uint8, generator=g)
    return ImageData(images=images, labels=labels, class_names=tuple("abcd")), logits


@pytest.fixture(scope="module")
def calibrated() -> tuple[Dataset, torch.Tensor, torch.Tensor]:
    """(data, test logits, validation logits): labels are drawn from the logits."""
    test, z = _split(3000, 0)
    held, zv = _split(3000, 1)
    data = Dataset(name="drawn", train=held, validation=held, test=test, mean=(0.5,), std=(0.5,))
    return data, z, zv


def _both(answering, data, z, zv):
    of_test, of_held = answering(z, data.test.images), answering(zv, data.validation.images)
    return lambda x: of_test(x) + of_held(x)


def test_an_over_confident_network_is_seen_and_repaired(
    calibrated, known, subject, answering
) -> None:
    data, z, zv = calibrated
    ctx = known(data, [_both(answering, data, 2.5 * z, 2.5 * zv)])
    finding = Calibration().run(subject, ctx, SETTINGS, 0)
    assert finding.metric("calibration.temperature").value == pytest.approx(2.5, rel=0.05)
    raw = finding.metric("calibration.ece", binning="equal-width", stage="raw")
    scaled = finding.metric("calibration.ece", binning="equal-width", stage="temperature")
    assert raw.headline
    assert scaled.headline
    assert raw.low > 0.1
    assert scaled.value < 1.7 * scaled.floor
    assert finding.metric("calibration.overconfidence", stage="raw").low > 0.1
    assert finding.metric("calibration.overconfidence", stage="temperature").value == pytest.approx(
        0, abs=0.02
    )
    for name in ("brier", "nll", "ks_error", "ece_debiased"):
        before = finding.metric(f"calibration.{name}", stage="raw").value
        assert finding.metric(f"calibration.{name}", stage="temperature").value < before
    assert [c.label for c in finding.curves] == ["known, raw", "known, temperature"]
    assert sum(finding.curves[0].counts) == 3000
    finding.model_dump_json()


def test_values_are_means_over_networks(calibrated) -> None:
    data, z, _ = calibrated
    stack = torch.stack([z, 3 * z]).double()
    got = {
        (m.name, m.params.get("binning")): m
        for m in stage_metrics(stack, data.test.labels, SETTINGS, stage="raw",
                               generator=torch.Generator().manual_seed(0))
    }  # fmt: skip
    y = data.test.labels
    for binning in ("equal-width", "equal-mass", "classwise"):
        want = sum(ece(s.softmax(1), y, binning=binning) for s in stack) / 2
        assert got["calibration.ece", binning].value == pytest.approx(want)
    want = sum(float(scores.brier(s.softmax(1), y).mean()) for s in stack) / 2
    assert got["calibration.brier", None].value == pytest.approx(want)
    for m in got.values():
        assert m.low <= m.value <= m.high


def test_interval_covers_the_expected_ece() -> None:
    # Expected reading from 300 fresh test sets; 60 intervals of 95 %: below 50 has probability 3e-4.
    settings = CalibrationSettings(bootstrap=100, simulations=2)

    def draw(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        g = torch.Generator().manual_seed(seed)
        z = 2 * torch.randn(400, 4, generator=g).double()
        return 1.5 * z, torch.multinomial(z.softmax(1), 1, generator=g)[:, 0]

    readings = [ece(z.softmax(1), y) for z, y in map(draw, range(300))]
    truth = sum(readings) / 300
    hits = 0
    for seed in range(1000, 1060):
        z, y = draw(seed)
        m = stage_metrics(z[None], y, settings, stage="raw",
                          generator=torch.Generator().manual_seed(seed))[0]  # fmt: skip
        hits += m.low <= truth <= m.high
    assert hits >= 50


def test_a_network_that_is_always_right_on_validation_is_left_unscaled(
    calibrated, known, subject, answering
) -> None:
    data, z, zv = calibrated
    sure = torch.nn.functional.one_hot(data.validation.labels, 4).float()
    right = _both(answering, data, z, sure)
    finding = Calibration().run(subject, known(data, [right]), SETTINGS, 0)
    assert finding.status == "partial"
    assert {m.params["stage"] for m in finding.metrics} == {"raw"}
    assert any("left unscaled (1: every validation prediction" in c for c in finding.caveats)
    fits = _both(answering, data, 2.5 * z, 2.5 * zv)
    finding = Calibration().run(subject, known(data, [right, fits]), SETTINGS, 0)
    assert finding.status == "ok"
    assert finding.metric("calibration.temperature").value == pytest.approx(2.5, rel=0.05)
    assert any("1 of 2 networks" in c for c in finding.caveats)


@pytest.mark.parametrize("unit", [1e-4, 1e4])
def test_logits_of_any_unit_are_repaired(calibrated, known, subject, answering, unit) -> None:
    """Logits of 10 000 once were called all right, or no better than chance."""
    data, z, zv = calibrated
    ctx = known(data, [_both(answering, data, unit * z, unit * zv)])
    finding = Calibration().run(subject, ctx, SETTINGS, 0)
    assert finding.metric("calibration.temperature").value == pytest.approx(unit, rel=0.05)
    scaled = finding.metric("calibration.ece", binning="equal-width", stage="temperature")
    assert scaled.value < 1.7 * scaled.floor


def test_without_validation_images_the_second_half_is_missing_and_says_so(
    calibrated, known, subject, answering
) -> None:
    data, z, _ = calibrated
    empty = data.validation.subset(torch.empty(0, dtype=torch.int64))
    ctx = known(replace(data, validation=empty), [answering(z, data.test.images)])
    finding = Calibration().run(subject, ctx, SETTINGS, 0)
    assert finding.status == "partial"
    assert "no validation images" in finding.reason
    assert {m.params["stage"] for m in finding.metrics} == {"raw"}


def test_further_repairs_are_scored_beside_one_temperature(
    calibrated, known, subject, answering
) -> None:
    """Logits whose classes need different scales: a scale for each class repairs what one temperature cannot."""
    data, z, zv = calibrated
    bent = torch.tensor([0.4, 4.0, 1.0, 2.0])
    nets = [_both(answering, data, z / bent, zv / bent)] * 2
    found = Calibration().run(subject, known(data, nets), SETTINGS, 0)
    nll = {
        stage: found.metric("calibration.nll", stage=stage).value
        for stage in ("raw", "temperature", "masked", "vector", "ensemble")
    }
    assert nll["vector"] < nll["temperature"] - 0.02
    assert nll["temperature"] <= nll["masked"] <= nll["raw"]
    assert nll["ensemble"] == pytest.approx(nll["raw"])
    best = float(torch.nn.functional.cross_entropy(z, data.test.labels))
    assert nll["vector"] == pytest.approx(best, abs=0.01)
    ece_of = found.metric("calibration.ece", binning="equal-width", stage="vector")
    assert not ece_of.headline
    assert ece_of.value < 2 * ece_of.floor


def test_temperature_never_sees_test_labels(calibrated, known, subject, answering) -> None:
    data, z, zv = calibrated
    victims = [_both(answering, data, 2 * z, 2 * zv)]
    a = Calibration().run(subject, known(data, victims), SETTINGS, 0)
    other = replace(data, test=replace(data.test, labels=data.test.labels.roll(1)))
    b = Calibration().run(subject, known(other, victims), SETTINGS, 0)
    name = "calibration.temperature"
    assert a.metric(name).value == b.metric(name).value


def test_end_to_end(audit, random_subset) -> None:
    auditor = AUDITORS.get("calibration")
    ctx, held = copy.copy(audit), audit.data.validation
    labels = torch.cat(
        [held.labels[:4].roll(1), held.labels[4:]]
    )  # some are wrong: a best temperature exists
    ctx.data = replace(audit.data, validation=replace(held, labels=labels))
    finding = auditor.run(random_subset, ctx, auditor.configure("quick"), 0)
    assert finding.status == "ok"
    assert any("bias of the training data" in c for c in finding.caveats)
    for m in finding.metrics:
        if m.low is not None:
            assert m.low <= m.value <= m.high


def test_checks_pass_and_can_fail(audit, monkeypatch) -> None:
    assert all(c.passed for c in Calibration().checks(audit, SETTINGS))
    honest = calibration.binned.ece
    monkeypatch.setattr(calibration.binned, "ece", lambda *a, **k: 2 * honest(*a, **k) + 0.02)
    monkeypatch.setattr(calibration, "smooth_ece", lambda cells: cells.sum(1).abs() / 2)
    broken = scores.Temperature(1.0)
    monkeypatch.setattr(calibration.scores, "fit_temperature", lambda *a: broken)
    assert not any(c.passed for c in Calibration().checks(audit, SETTINGS))


def test_parts_of_the_brier_score_add_up_and_errors_below_chance_are_negative() -> None:
    g = torch.Generator().manual_seed(3)
    z = 2 * torch.randn(1, 4000, 2, generator=g).double()
    z[..., 0] += 0.5
    p = z[0].softmax(1)
    y = torch.multinomial(p, 1, generator=g)[:, 0]
    found = stage_metrics(z, y, SETTINGS, stage="raw", generator=torch.Generator().manual_seed(0))
    value = {m.name: m.value for m in found}
    parts = [f"calibration.brier_{k}" for k in ("reliability", "uncertainty", "within")]
    top = (p.max(1).values - (p.argmax(1) == y).double()).square().mean()
    got = sum(value[k] for k in parts) - value["calibration.brier_resolution"]
    assert got == pytest.approx(float(top), abs=1e-9)
    low = [
        next(m.value for m in stage_metrics(
            zz[None], torch.multinomial(zz.softmax(1), 1, generator=g)[:, 0], SETTINGS, stage="raw",
            generator=torch.Generator().manual_seed(0),
        ) if m.name == "calibration.ece_debiased")
        for zz in (2 * torch.randn(300, 4, generator=g).double() for _ in range(6))
    ]  # fmt: skip
    assert min(low) < 0, "six calibrated networks, and none reads less than chance gives on average"
