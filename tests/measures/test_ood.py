"""The ood auditor: planted outliers, what each set is made of, unseen classes, checks that can fail."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from ddaudit.auditing import AUDITORS
from ddaudit.data import load_data
from ddaudit.data.unseen import UNSEEN, without_classes
from ddaudit.errors import BadInput
from ddaudit.measures import ood
from ddaudit.measures.ood import Ood, OodSettings
from ddaudit.measures.outliers import outliers, photographs, shuffled
from ddaudit.models import Arch

SETTINGS = OodSettings(images=60, unseen=0, bootstrap=50)


def test_a_network_that_knows_test_images_alone_tells_all_outliers(tiny, known, subject) -> None:
    seen = {image.numpy().tobytes() for image in tiny.test.images}

    def sure_of_test(images):
        ours = torch.tensor([image.numpy().tobytes() in seen for image in images])
        return torch.nn.functional.one_hot(torch.zeros(len(images)).long(), 4) * (
            1 + 9 * ours[:, None]
        )

    finding = Ood().run(subject, known(tiny, [sure_of_test, sure_of_test]), SETTINGS, 0)
    areas = [m for m in finding.metrics if m.name == "ood.auroc"]
    assert {m.params["set"] for m in areas} == {
        "shuffled quarters", "corrupted", "photographs", "digits", "noise",
    }  # fmt: skip
    assert {m.params["score"] for m in areas} == {"msp", "max-logit", "energy"}
    # A brightness of 1 more may leave an image as it was: corrupted ones are nearly all told.
    assert all(m.value == 1 for m in areas if m.params["set"] != "corrupted")
    assert all(0.9 < m.low < 1 == m.high for m in areas if m.params["set"] == "noise")
    assert finding.metric("ood.fpr95", set="noise", score="msp").value == 0
    headlines = [m.params["set"] for m in finding.metrics if m.headline]
    assert sorted(headlines) == ["photographs", "shuffled quarters"]
    assert any("No score by neighbours" in c for c in finding.caveats)
    assert any("ood.unseen=2" in c for c in finding.caveats)


def test_a_constant_network_guesses(tiny, known, subject) -> None:
    finding = Ood().run(
        subject,
        known(tiny, [lambda x: torch.tensor([[1.0, 0, 0, 0]]).repeat(len(x), 1)]),
        SETTINGS,
        0,
    )
    wanted = {"ood.auroc": 0.5, "ood.fpr95": 1.0, "ood.aupr_in": 0.5, "ood.aupr_out": 0.5}
    for m in finding.metrics:
        assert m.value == pytest.approx(wanted[m.name])


def test_outliers_are_what_they_are_called(tiny) -> None:
    g = torch.Generator().manual_seed(0)
    made = outliers(tiny.test, tiny, g)
    assert {len(x) for x in made.values()} == {160}
    assert {x.shape for x in made.values()} == {(3, 8, 8)}
    x, noise = tiny.test.images.double(), made["noise"].images.double()
    assert noise.mean((0, 2, 3)).tolist() == pytest.approx(x.mean((0, 2, 3)).tolist(), abs=8)
    images = torch.arange(2 * 36, dtype=torch.uint8).view(2, 1, 6, 6)
    moved = shuffled(images, g)
    for image, was in zip(moved, images, strict=True):
        assert sorted(image.flatten().tolist()) == sorted(was.flatten().tolist())
        for i, j in ((0, 0), (0, 3), (3, 0), (3, 3)):
            assert not torch.equal(image[:, i : i + 3, j : j + 3], was[:, i : i + 3, j : j + 3])
    grey = photographs(6, (1, 8, 8), g)
    assert grey.shape == (6, 1, 8, 8)
    assert float(grey.float().std()) > 10
    table = load_data("wine")
    assert list(outliers(table.test, table, g)) == ["noise"]


def test_unseen_classes_are_in_no_split_and_keep_their_images() -> None:
    base, data = load_data("digits"), load_data("unseen:base=digits,classes=3")
    assert data.num_classes == 7
    for split in (data.train, data.validation, data.test):
        assert int(split.labels.max()) == 6
    assert len(data.train) == int((base.train.labels < 7).sum())
    gone = data.extra[UNSEEN]
    assert gone.class_counts().tolist() == [0] * 7 + [40] * 3
    assert any("left out" in note for note in data.notes)
    with pytest.raises(BadInput, match="leaves 1 of 10 classes"):
        without_classes(base, 9, where="x")


@pytest.fixture
def small(audit):
    """A context whose victim is trained in a moment."""
    preset = audit.preset.model_copy(update={"victims": 1})
    return replace(audit, preset=preset, arch=Arch.parse("ConvNetD1W8"), _victims={})


def test_recipes_distil_again_without_the_unseen_classes(small, random_subset) -> None:
    auditor = AUDITORS.get("ood")
    settings = auditor.configure("quick", {"unseen": 1, "images": 60})
    finding = auditor.run(random_subset, small, settings, 0)
    got = finding.metric("ood.auroc", set="unseen classes", score="msp")
    assert got.headline
    assert got.n == 80  # 40 images of the class, 40 of the others
    assert finding.metric("ood.auroc", set="noise", score="knn").value is not None
    assert any("distilled once more" in c for c in finding.caveats)
    assert auditor.work(random_subset, small, settings).distillations == 1
    for m in finding.metrics:
        assert 0 <= m.low <= m.value <= m.high <= 1


def test_data_that_have_unseen_classes_need_no_distillation(small, random_subset) -> None:
    fewer = without_classes(small.data, 1, where="test")
    ctx = replace(small, data=fewer)
    settings = OodSettings(images=40, unseen=2, bootstrap=20)
    finding = Ood().run(random_subset, ctx, settings, 0)
    assert finding.metric("ood.auroc", set="unseen classes", score="knn").n == 80
    assert not any("distilled once more" in c for c in finding.caveats)
    assert Ood().work(random_subset, ctx, settings).distillations == 0
    assert set(Ood().inputs(ctx, OodSettings())) == {"test_unseen"}


def test_checks_pass_and_can_fail(audit, monkeypatch) -> None:
    assert all(c.passed for c in Ood().checks(audit, SETTINGS))
    monkeypatch.setattr(ood, "msp", lambda z: z.softmax(1).amax(1))
    honest = ood.detection
    swapped = lambda s, i, w: {k: v * 0.8 for k, v in honest(s, i, w).items()}  # noqa: E731
    monkeypatch.setattr(ood, "detection", swapped)
    assert not any(c.passed for c in Ood().checks(audit, SETTINGS))


def test_digits_are_no_strangers_to_digits_without_some_classes() -> None:
    digits = load_data("unseen:base=digits,classes=2")
    assert "digits" not in outliers(digits.test, digits, torch.Generator().manual_seed(0))


def test_few_outliers_leave_an_interval() -> None:
    table = {"msp": torch.rand(2, 104, generator=torch.Generator().manual_seed(0))}
    found = ood.detection_metrics(table, 100, ood.Resamples("a few", 104, 400), "noise")
    assert all(m.low <= m.value <= m.high for m in found)
    assert all(m.low == m.low for m in found)
    assert all(m.resampled is None for m in found), "a resample without outliers pairs with nothing"
