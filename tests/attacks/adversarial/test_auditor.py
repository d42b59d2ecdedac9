"""The ``adversarial`` auditor end to end on a small data set: names, parameters, intervals, checks."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from ddaudit.attacks.adversarial import beard_rows
from ddaudit.attacks.adversarial.auditor import Adversarial, AdversarialSettings
from ddaudit.attacks.adversarial.rows import Attacked, drop_rate, headline, not_to_be_quoted
from ddaudit.attacks.adversarial.settings import Radii
from ddaudit.auditing import PRESETS, Context, Subject
from ddaudit.data import load_data
from ddaudit.errors import BadInput
from ddaudit.findings import Finding, Metric
from ddaudit.models import Arch, Network, build
from ddaudit.stats import Resamples

FAST = {
    "images": 40, "check_images": 40, "eps": (0.0, 8 / 255, 0.3), "l2_eps": (0.5,), "pgd_steps": 10,
    # At this radius every image falls to APGD, so the slow stages have nothing left to do.
    "autoattack_eps": 0.4, "autoattack_images": 20,
}  # fmt: skip


@pytest.fixture(scope="module")
def networks(tiny, fitted) -> list[Network]:
    """Two small networks trained with plain Adam: victims as an audit would hand them out."""
    return [fitted(tiny, Arch.parse("ConvNetD2W8"), 40, seed) for seed in (0, 1)]


@pytest.fixture(scope="module")
def ctx(tiny) -> Context:
    return Context(data=tiny, preset=PRESETS["quick"], arch=Arch.parse("ConvNetD2W8"))


@pytest.fixture(scope="module")
def finding(ctx, networks) -> Finding:
    auditor = Adversarial()
    ctx = Context(data=ctx.data, preset=ctx.preset, arch=ctx.arch)
    ctx.victims = lambda subject, seed: networks  # type: ignore[method-assign]
    return auditor.run(
        Subject(id="two nets", kind="recipe"), ctx, auditor.configure("quick", FAST), 0
    )


def test_metrics_carry_attack_norm_and_eps(finding):
    robust = [m for m in finding.metrics if m.name == "adversarial.robust_accuracy"]
    assert [(m.params["attack"], m.params["norm"], m.params["eps"]) for m in robust] == [
        ("pgd", "Linf", 0.0),
        ("pgd", "Linf", 0.031373),
        ("pgd", "Linf", 0.3),
        ("pgd", "L2", 0.5),
        ("autoattack", "Linf", 0.4),
    ]
    assert [m.headline for m in robust] == [False, False, False, False, True]
    assert len({m.key for m in finding.metrics}) == len(finding.metrics)


def test_eps_zero_is_clean_accuracy_and_large_eps_leaves_nothing(finding):
    clean = finding.metric("adversarial.clean_accuracy")
    assert clean.value > 0.9
    assert (
        finding.metric("adversarial.robust_accuracy", attack="pgd", norm="Linf", eps=0.0).value
        == clean.value
    )
    assert finding.metric("adversarial.robust_accuracy", attack="autoattack").value == 0.0
    assert finding.metric("adversarial.drop_rate").value == 1.0


def test_every_number_has_an_interval_with_width(finding):
    for m in finding.metrics:
        assert 0 <= m.low <= m.value <= m.high <= 1
        assert m.high > m.low


def test_curve_is_accuracy_against_grey_levels(finding):
    line, point = finding.curves
    assert line.x == pytest.approx([0, 8, 76.5])
    assert line.y == sorted(line.y, reverse=True)
    assert point.x == pytest.approx([102])
    assert line.plot == point.plot


def test_all_masking_tests_ran_and_passed(finding):
    numbers = {int(c.name.split(":")[0].split()[1]) for c in finding.checks}
    assert numbers == set(range(1, 15))
    assert {c.subject for c in finding.checks} == {"two nets"}
    assert [c.name for c in finding.checks if not c.passed] == []


def test_caveats_log_budget_library_and_resolution(finding):
    text = " ".join(finding.caveats)
    for part in ("100 steps", "5000 queries", "3 targets", "Own attacks", "8 x 8"):
        assert part in text


def test_victims_reported_by_another_path_turn_the_controls_red(ctx, networks):
    """A planted defect: the audit predicts on mirrored images (augmentation left on), the attack on the images."""
    auditor = Adversarial()
    wrong = Context(data=ctx.data, preset=ctx.preset, arch=ctx.arch)
    wrong.victims = lambda subject, seed: networks[:1]  # type: ignore[method-assign]
    wrong.train = lambda sets, *, seeds, arch=None: networks[1:]  # type: ignore[method-assign]

    def predict(net: Network, images: torch.Tensor) -> torch.Tensor:
        return net(images.flip(3).float() / 255).detach()

    wrong.predict = predict  # type: ignore[method-assign]
    settings = auditor.configure(
        "quick", {**FAST, "attacks": ("pgd",), "eps": (0.0,), "l2_eps": ()}
    )
    finding = auditor.run(Subject(id="s", kind="recipe"), wrong, settings, 0)
    failed = {c.name.split(":")[0] for c in finding.checks if not c.passed}
    assert {"masking 1", "masking 13"} <= failed


def test_lone_checkpoint_gets_a_sibling_for_the_transfer_test(ctx, networks):
    auditor = Adversarial()
    lone = Context(data=ctx.data, preset=ctx.preset, arch=ctx.arch, ipc=5)
    settings = auditor.configure("quick", {**FAST, "attacks": ("pgd",)})
    finding = auditor.run(
        Subject(id="net.pt", kind="checkpoint", network=networks[0]), lone, settings, 0
    )
    assert any(c.name.startswith("masking 5") for c in finding.checks)
    queried = next(c for c in finding.checks if c.name.startswith("masking 6"))
    assert "PGD-100 but not Square" in queried.detail


def test_oblong_images_keep_their_numbers(ctx):
    """The library's Square cannot tile 8 x 12 images; the whole auditor once was lost to that."""
    data = replace(
        ctx.data,
        **{
            part: replace(d, images=torch.nn.functional.pad(d.images, (0, 4)))
            for part in ("train", "validation", "test")
            if (d := getattr(ctx.data, part))
        },
    )
    wide = Context(data=data, preset=ctx.preset, arch=ctx.arch)
    network = build(ctx.arch, shape=data.shape, num_classes=4, seed=0, mean=data.mean, std=data.std)
    wide.victims = lambda subject, seed: [network]  # type: ignore[method-assign]
    wide.train = lambda sets, *, seeds, arch=None: [network]  # type: ignore[method-assign]
    auditor = Adversarial()
    few = {**FAST, "attacks": ("autoattack",), "check_images": 10, "autoattack_images": 10}
    finding = auditor.run(
        Subject(id="net", kind="recipe"), wide, auditor.configure("quick", few), 0
    )
    assert finding.status == "ok"
    assert finding.metric("adversarial.robust_accuracy", attack="autoattack").value is not None


def test_quick_is_smaller_never_different():
    quick, standard = (Adversarial().configure(p) for p in ("quick", "standard"))
    assert quick.attacks == standard.attacks
    assert quick.eps == standard.eps
    assert quick.headline == standard.headline == pytest.approx(2 / 255)
    assert quick.autoattack_images < standard.autoattack_images


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"attacks": ["pgg"]}, "unknown attack"),
        ({"eps": [-0.1]}, "zero or more"),
        ({"stepz": 3}, "stepz"),
    ],
)
def test_bad_settings_are_one_line(options, says):
    with pytest.raises(BadInput, match=says) as caught:
        Adversarial().configure("quick", options)
    assert "\n" not in str(caught.value)


def test_instrument_checks_are_green(ctx):
    found = Adversarial().checks(ctx, AdversarialSettings(l2_eps=()))
    assert len(found) == 4
    assert all(c.passed for c in found)


def test_robust_accuracy_stands_beside_clean_accuracy_of_the_same_images():
    """Right on 3 of the 4 attacked images and on one of them still: whatever the other images of the test set say."""
    clean = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 0]]).bool()
    survived = torch.tensor([[1, 0, 0, 0], [1, 0, 0, 0]]).bool()
    found = headline(Attacked(clean, survived, None), "Linf", 0.1, Resamples("r", 4))
    robust, before, dropped = found
    assert [m.name.removeprefix("adversarial.") for m in found] == [
        "robust_accuracy",
        "clean_accuracy",
        "drop_rate",
    ]
    assert (robust.value, before.value, dropped.value) == (0.25, 0.75, pytest.approx(2 / 3))
    assert robust.n == before.n == 4
    assert before.params == {"attack": "autoattack"}


def test_drop_rate_counts_only_images_that_were_right():
    clean = torch.tensor([[True, True, True, True, False, False]])
    survived = torch.tensor([[True, True, True, False, False, False]])
    drop = drop_rate(clean, survived)
    assert drop.value == pytest.approx(0.25)
    assert drop.n == 4
    assert drop.low < 0.25 < drop.high


def test_drop_rate_averages_over_victims_that_got_any_right():
    clean = torch.tensor([[True, True], [False, False]])
    survived = torch.tensor([[True, False], [False, False]])
    assert drop_rate(clean, survived).value == pytest.approx(0.5)


def test_further_attacks_stand_at_the_headline_radius_and_square_draws_its_budget(ctx, networks):
    auditor = Adversarial()
    wide = Context(data=ctx.data, preset=ctx.preset, arch=ctx.arch)
    wide.victims = lambda subject, seed: networks  # type: ignore[method-assign]
    names = ("fgsm", "mi-fgsm", "square", "deepfool")
    few = {**FAST, "attacks": names, "l2_eps": (), "check_images": 10, "autoattack_images": 10}
    finding = auditor.run(Subject(id="s", kind="recipe"), wide, auditor.configure("quick", few), 0)
    rows = {m.params["attack"]: m for m in finding.metrics if "attack" in m.params}
    assert set(rows) == set(names)
    assert all(m.params["eps"] == 0.4 and m.value < 0.5 for m in rows.values())
    curve = next(c for c in finding.curves if c.plot == "Accuracy against queries")
    assert curve.y == sorted(curve.y, reverse=True)
    assert curve.y[-1] == pytest.approx(rows["square"].value)


def test_benchmark_configurations_and_transfer_rows(ctx, networks, monkeypatch):
    """The benchmark's rows themselves: test_beard.py."""
    asked = []

    def emitted(networks, records):
        asked.append((len(networks), len(records)))
        name = "adversarial.beard_accuracy"
        return [Metric(name=name, value=0.5, params={"attack": "a benchmark's"})]

    monkeypatch.setattr(beard_rows, "emitted", emitted)
    auditor = Adversarial()
    wide = Context(data=ctx.data, preset=ctx.preset, arch=ctx.arch)
    wide.victims = lambda subject, seed: networks[:1]  # type: ignore[method-assign]
    wide.train = lambda sets, *, seeds, arch=None: networks[1:]  # type: ignore[method-assign]
    few = {
        "attacks": (), "images": 10, "check_images": 10, "autoattack_images": 3, "beard_compat": True,
        "transfer": ("random",), "autoattack_eps": 0.4,
    }  # fmt: skip
    finding = auditor.run(Subject(id="s", kind="recipe"), wide, auditor.configure("quick", few), 0)
    assert asked == [(1, few["autoattack_images"])]
    assert finding.metric("adversarial.beard_accuracy", attack="a benchmark's").value == 0.5
    moved = finding.metric("adversarial.transfer_accuracy")
    assert moved.params["source"] == "random"
    # The source is the victim itself here, so this is a white-box attack.
    assert moved.value < 0.2


def test_tables_are_attacked_in_standard_deviations(fitted):
    from ddaudit.data import load_data

    data = load_data("breast-cancer")
    ctx = Context(data=data, preset=PRESETS["quick"], arch=Arch("mlp", width=16))
    network = fitted(data, ctx.arch, 30)
    ctx.victims = lambda subject, seed: [network]  # type: ignore[method-assign]
    ctx.train = lambda sets, *, seeds, arch=None: [network]  # type: ignore[method-assign]
    auditor = Adversarial()
    few = {"images": 40, "check_images": 30, "autoattack_images": 20, "table_autoattack_eps": 2.0}
    finding = auditor.run(Subject(id="t", kind="recipe"), ctx, auditor.configure("quick", few), 0)
    curve = [
        m for m in finding.metrics if m.params.get("attack") == "pgd" and m.params["norm"] == "Linf"
    ]
    assert [m.params["eps"] for m in curve] == [0.0, 0.05, 0.1, 0.25, 0.5, 1.0]
    assert curve[-1].value < curve[0].value
    assert finding.metric("adversarial.robust_accuracy", attack="autoattack").value < 0.2
    assert any("standard deviations" in c for c in finding.caveats)
    assert any("With 2 classes" in c for c in finding.caveats)
    assert [c.name for c in finding.checks if not c.passed] == []


def test_a_failed_masking_test_is_one_sentence_before_any_number(finding):
    assert Adversarial().warning(finding) == ""
    broken = finding.model_copy(deep=True)
    broken.checks[3].passed = False
    said = Adversarial().warning(broken)
    assert said == (
        "robust accuracy is not to be quoted: it fails the test “an unbounded attack succeeds”."
    )
    assert broken.failing_checks(broken.metric("adversarial.robust_accuracy"))
    broken.checks[5].passed = False
    assert "(1 more failed)" in not_to_be_quoted([c for c in broken.checks if not c.passed])


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"eps": (8,)}, "8 grey levels are 0.0314"),
        ({"autoattack_eps": 2}, "beyond all pixels"),
        ({"attacks": ("cw",), "l2_eps": ()}, "give l2_eps"),
    ],
)
def test_settings_that_would_say_nothing_are_refused_before_an_attack_runs(settings, words):
    with pytest.raises(BadInput, match=words):
        Adversarial().configure("quick", settings)


def test_cw_runs_at_the_headline_radius_where_that_is_a_length():
    auditor = Adversarial()
    settings = auditor.configure("quick", {"autoattack_norm": "L2", "autoattack_eps": 1.5})
    radii = Radii.of(settings, load_data("digits").test)
    assert radii.of_l2("L2") == (0.5, 1.5)
    assert radii.of_l2("Linf") == (0.5,)
    # 2/255 of length would be no attack.
    assert auditor.configure("quick", {"autoattack_norm": "L2"}).headline == 0.5


def test_images_are_crafted_on_the_subjects_that_are_named(ctx, networks):
    auditor = Adversarial()
    wide = Context(data=ctx.data, preset=ctx.preset, arch=ctx.arch)
    nets = {"a": networks[:1], "b.safetensors": networks[1:], "full": networks[:1]}
    wide.subjects = {n: Subject(id=n, kind="file", identity=n, baseline=n == "full") for n in nets}
    asked = []

    def victims(subject, seed):
        asked.append((subject.id, seed))
        if nets[subject.id] is None:
            raise BadInput(subject.id, "diverged")
        return nets[subject.id]

    wide.victims = victims  # type: ignore[method-assign]
    wide.train = lambda sets, *, seeds, arch=None: networks[1:]  # type: ignore[method-assign]
    few = {
        "attacks": (), "images": 6, "check_images": 6, "autoattack_images": 6, "pgd_steps": 2,
        "eps": (0.0, 0.1), "l2_eps": (),
    }  # fmt: skip

    def sources(subject, transfer):
        settings = auditor.configure("quick", {**few, "transfer": transfer})
        assert set(auditor.inputs(wide, settings)) >= set(transfer) - {"subjects"}
        finding = auditor.run(wide.subjects[subject], wide, settings, 0)
        return [
            m.params["source"] for m in finding.metrics if m.name == "adversarial.transfer_accuracy"
        ]

    assert sources("a", ("subjects",)) == ["b.safetensors"]  # not its own, no baseline
    assert sources("full", ("subjects",)) == ["a", "b.safetensors"]
    assert sources("a", ("full", "b.safetensors")) == ["full", "b.safetensors"]
    assert auditor.inputs(wide, auditor.configure("quick", few)) == {}
    # A source's set is one that its own cells have made, whatever draw of a reference is attacked.
    asked.clear()
    auditor.run(
        wide.subjects["full"], wide, auditor.configure("quick", {**few, "transfer": "a"}), 4
    )
    assert asked == [("full", 4), ("a", 0)]
    nets["b.safetensors"] = None  # one that fails takes nobody else's finding
    settings = auditor.configure("quick", {**few, "transfer": "subjects"})
    found = auditor.run(wide.subjects["full"], wide, settings, 0)
    assert found.metric("adversarial.transfer_accuracy").params["source"] == "a"
    assert any(
        "No transfer row from b.safetensors: b.safetensors: diverged" in c for c in found.caveats
    )
    wide.subjects = {"a": wide.subjects["a"]}
    alone = auditor.configure("quick", {**few, "transfer": "subjects"})
    assert any(
        "No transfer row" in c for c in auditor.run(wide.subjects["a"], wide, alone, 0).caveats
    )
    with pytest.raises(BadInput, match=r"transfer=dmm: names neither .* Did you mean dm"):
        auditor.inputs(wide, auditor.configure("quick", {"transfer": ("dmm",)}))
