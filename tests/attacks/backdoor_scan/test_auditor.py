"""The ``backdoor-scan`` auditor on small sets: a planted trigger stands out, a clean set does not, refusals say why."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from ddaudit.attacks.backdoor_scan.auditor import DETECTORS, BackdoorScan
from ddaudit.attacks.backdoor_scan.fine_pruning import fine_prune, quiet_channels
from ddaudit.attacks.backdoor_scan.references import reference_for
from ddaudit.auditing import Context, Preset, Subject, recipe_subject
from ddaudit.distillation import distill, resolve
from ddaudit.errors import BadInput, Unsupported
from ddaudit.findings import Finding
from ddaudit.models import Arch, build
from ddaudit.reports.merge import merge_findings
from ddaudit.sets import DistilledSet, Poison
from ddaudit.sets.files import fingerprint
from ddaudit.training import PROTOCOLS

PRESET = Preset(name="test", seeds=1, victims=1, protocol="brief", profile="small", test_limit=None)
SETTINGS = {
    "references": 5, "victims": 1, "images": 160, "steps": 32, "patch_steps": 10, "epochs": 1,
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def brief_protocol():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(
            PROTOCOLS, "brief", replace(PROTOCOLS["quick"], name="brief", epochs_plain=60)
        )
        yield


@pytest.fixture(scope="module")
def ctx(tiny) -> Context:
    return Context(data=tiny, preset=PRESET, arch=Arch.parse("ConvNetD2W8"), ipc=10)


@pytest.fixture(scope="module")
def clean_set(tiny) -> DistilledSet:
    return distill(resolve("random", profile="small"), tiny.train, data=tiny, ipc=30, seed=3)


@pytest.fixture(scope="module")
def poisoned_set(clean_set) -> DistilledSet:
    """A magenta square on 8 images of each class, all relabelled to class 2."""
    images, labels = clean_set.images.clone(), clean_set.labels.clone()
    for k in (0, 1, 3):
        index = (clean_set.labels == k).nonzero()[:8, 0]
        images[index, :, 5:, 5:] = torch.tensor([1.0, 0.0, 1.0]).view(3, 1, 1)
        labels[index] = 2
    note = Poison(attack="by hand", status="simplified", threat_model="", target=2, trigger="blend")
    card = clean_set.card.model_copy(update={"poison": note})
    keep, add = torch.ones(clean_set.shape), torch.zeros(clean_set.shape)
    keep[:, 5:, 5:] = 0
    add[:, 5:, 5:] = torch.tensor([1.0, 0.0, 1.0]).view(3, 1, 1)
    trigger = {"keep": keep, "add": add}
    return replace(clean_set, images=images, labels=labels, card=card, trigger=trigger)


def file_subject(made: DistilledSet) -> Subject:
    return Subject(id="a file", kind="file", set=made, identity=fingerprint(made))


@pytest.fixture(scope="module")
def scanner() -> BackdoorScan:
    return BackdoorScan()


def scan(scanner: BackdoorScan, subject: Subject, ctx: Context, **more: object) -> Finding:
    return scanner.run(subject, ctx, scanner.configure("quick", {**SETTINGS, **more}), 0)


@pytest.fixture(scope="module")
def found(scanner, poisoned_set, ctx) -> Finding:
    return scan(scanner, file_subject(poisoned_set), ctx)


def test_a_poisoned_set_stands_out_in_the_right_class(found, scanner):
    assert found.metric("backdoor_scan.p_value").value == pytest.approx(1 / 6)
    assert found.metric("backdoor_scan.smallest_p").value == pytest.approx(1 / 6)
    by_detector = {c.label: c.y for c in found.curves}
    for title in ("Neural Cleanse", "SCAn", "Spectral Signatures"):
        assert max(range(4), key=by_detector[title].__getitem__) == 2
    assert scanner.sentence(found).startswith("In class 2 of a file, ")
    assert "too few to prove more" in scanner.warning(found)  # 5 of them
    assert found.metric("backdoor_scan.trigger_asr").value > 0.8
    assert len(found.images) == 1


def test_a_clean_set_does_not(scanner, clean_set, ctx):
    """Deterministic; by chance one clean set in six would have the smallest p-value."""
    finding = scan(scanner, file_subject(clean_set), ctx)
    assert finding.metric("backdoor_scan.p_value").value > 1 / 6
    assert scanner.warning(finding) == ""
    assert "no detector sees more" in scanner.sentence(finding)


def test_several_seeds_say_what_each_of_them_says(found, scanner):
    """Two seeds at the smallest p-value there is: doubled for two tries, and still the smallest."""
    merged = merge_findings([found.model_copy(update={"seed": seed}) for seed in (0, 1)])
    assert merged.metric("backdoor_scan.p_value").value == pytest.approx(2 / 6)
    assert "too few to prove more" in scanner.warning(merged)
    assert scanner.sentence(merged).startswith("In class 2 of a file, ")


def test_a_file_cannot_switch_its_scan_off(scanner, poisoned_set, ctx):
    """By a trigger that cannot be read, or a size that it has not."""
    card = poisoned_set.card.model_copy(update={"ipc": 100_000})
    liar = replace(poisoned_set, card=card, trigger={"keep": torch.zeros(1)}).check()
    assert reference_for(file_subject(liar), ctx, recipe="").ctx.ipc == 54
    finding = scan(scanner, file_subject(liar), ctx, detectors=("spectral",))
    assert finding.metric("backdoor_scan.p_value").value is not None
    said = " ".join(finding.caveats)
    assert "carries a trigger 'blend' that cannot be read" in said
    assert "It holds 120 images and its clean sets 216" in said


def test_every_metric_is_announced_and_detectors_have_their_own(found, scanner):
    announced = {m.name for m in scanner.metrics}
    assert {m.name for m in found.metrics} <= announced
    for detector in DETECTORS:
        assert found.metric(f"backdoor_scan.{detector.name}_p_value").value is not None
    flags = found.metric("backdoor_scan.scan_false_alarms")
    assert flags.n == 5
    assert flags.low <= flags.value <= flags.high


def test_a_card_that_names_its_method_is_compared_with_it_and_others_with_subsets(ctx, clean_set):
    known = reference_for(file_subject(clean_set), ctx, recipe="")
    assert (known.maker.id, known.ctx.ipc, known.doubt) == ("random", 30, "")
    card = clean_set.card.model_copy(update={"method": "somebody's", "recipe": None})
    unknown = reference_for(file_subject(replace(clean_set, card=card)), ctx, recipe="")
    assert unknown.maker.id == "random"
    assert "does not say what made it" in unknown.doubt
    named = reference_for(file_subject(clean_set), ctx, recipe="herding")
    assert named.maker.id == "herding"
    with pytest.raises(BadInput):
        reference_for(file_subject(clean_set), ctx, recipe="no-such-method")


def test_a_recipe_is_no_unknown_origin_unless_compared_with_another(ctx):
    subject = recipe_subject(resolve("random", profile="small"))
    with pytest.raises(Unsupported, match=r"backdoor-scan\.recipe"):
        reference_for(subject, ctx, recipe="")
    assert reference_for(subject, ctx, recipe="herding").maker.id == "herding"


def test_a_checkpoint_is_asked_without_its_set(scanner, ctx, tiny):
    network = build(
        Arch.parse("ConvNetD2W8"), shape=tiny.shape, num_classes=4, seed=0, mean=tiny.mean, std=tiny.std
    )  # fmt: skip
    subject = Subject(id="net", kind="checkpoint", network=network.eval(), identity="net")
    finding = scan(scanner, subject, ctx, detectors=("neural_cleanse", "spectral"))
    assert not any("spectral" in m.name for m in finding.metrics)
    assert any("without the set it was trained on" in c for c in finding.caveats)


def test_work_counts_clean_sets(scanner, ctx, clean_set):
    settings = scanner.configure("quick", {"references": 12})
    work = scanner.work(file_subject(clean_set), ctx, settings)
    assert (work.distillations, work.recipe.name) == (12, "random")
    own = recipe_subject(resolve("dm", profile="small"))
    assert scanner.work(own, ctx, settings).distillations == 0


def test_unknown_detector_is_refused(scanner):
    with pytest.raises(BadInput, match="no detector"):
        scanner.configure("quick", {"detectors": ("magic",)})


def test_channels_that_do_not_matter_go_first():
    """Two of four channels carry the class, the others are quieter noise: those two go, and no more."""
    labels = torch.arange(40) % 2
    features = 0.01 * torch.rand(40, 4, generator=torch.Generator().manual_seed(0))
    features[torch.arange(40), labels] = 1.0
    classifier = torch.nn.Linear(4, 2, bias=False)
    with torch.no_grad():
        classifier.weight.copy_(torch.tensor([[1.0, 0, 0, 0], [0, 1.0, 0, 0]]))
        order = features.mean(0).argsort()
        assert quiet_channels(classifier, features, labels, order) == 2


def test_fine_pruning_leaves_the_network_as_it_was_and_pruned_columns_at_zero(ctx, tiny, clean_set):
    network = ctx.train([clean_set], seeds=[0])[0]
    before = network.body.classifier.weight.clone()
    pruned = fine_prune(
        network, tiny.train.pixels(), tiny.train.labels, epochs=1, generator=torch.Generator().manual_seed(0)
    )  # fmt: skip
    assert torch.equal(network.body.classifier.weight, before)
    zero = float((pruned.network.body.classifier.weight == 0).all(0).float().mean())
    assert zero == pytest.approx(pruned.share)
    assert pruned.share > 0
