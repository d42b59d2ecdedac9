"""Victims by the audit's protocol or by the card's, and never by something in between."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from ddaudit.auditing import AUDITORS, PRESETS, Context, Subject, missing_part
from ddaudit.audits import RunStore
from ddaudit.data import Dataset
from ddaudit.errors import BadInput, Unsupported
from ddaudit.measures.utility import Utility, UtilitySettings
from ddaudit.models import Arch, Network, build
from ddaudit.sets import Card, DistilledSet
from ddaudit.training import PROTOCOLS, EvaluationProtocol, train_many

STATED = EvaluationProtocol(name="mine", epochs_plain=3, lr=0.2, batch_size=8, augment="")


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PROTOCOLS, "quick", replace(PROTOCOLS["quick"], epochs_plain=40))


def context(data: Dataset, by: str = "audit") -> Context:
    return Context(
        data=data, preset=PRESETS["quick"], arch=Arch.parse("ConvNetD2W8"), ipc=2, trains_by=by  # type: ignore[arg-type]
    )  # fmt: skip


def file_of(data: Dataset, **card: object) -> Subject:
    pick = torch.arange(12)
    x = DistilledSet(data.train.pixels(pick), data.train.labels[pick], 4, Card(**card))  # type: ignore[arg-type]
    return Subject(id="a", kind="file", set=x, identity="a")


def trained(data: Dataset, subject: Subject, protocol: EvaluationProtocol, seed: int) -> Network:
    assert subject.set is not None
    (network,) = train_many(
        [(subject.set.images, subject.set.labels)], arch=Arch.parse("ConvNetD2W8"), num_classes=4,
        mean=data.mean, std=data.std, protocol=protocol, seeds=[seed],
    )  # fmt: skip
    return network


def same(a: Network, b: Network) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))


def test_victims_follow_the_card_only_when_asked(tiny: Dataset) -> None:
    subject = file_of(tiny, protocol=STATED.to_card())
    for by, protocol in (("audit", PROTOCOLS["quick"].for_data("")), ("card", STATED)):
        ctx = context(tiny, by)
        first = ctx.victims(subject, 0)[0]
        assert same(first, trained(tiny, subject, protocol, ctx.seed_for("victim", 0, 0)))
    keys = {context(tiny).victim_key(p) for p in (PROTOCOLS["quick"], STATED)}
    assert len(keys) == 2


def test_answers_are_those_of_the_victims_and_asked_for_once(tiny, tmp_path, monkeypatch) -> None:
    one, other = (replace(file_of(tiny), identity=name) for name in ("one", "other"))
    other = replace(other, set=replace(one.set, images=one.set.images.flip(3)))

    def fresh() -> Context:
        return replace(context(tiny), artifacts=RunStore(str(tmp_path)), _victims={}, _answers={})

    ctx = fresh()
    told = ctx.answers(one, 0)
    nets = ctx.victims(one, 0)
    assert torch.equal(told, torch.stack([ctx.predict(n, ctx.test().images) for n in nets]))
    assert not torch.equal(told, ctx.answers(other, 0))
    assert not torch.equal(told, ctx.answers(one, 1))
    assert not torch.equal(told, ctx.answers(one, 0, protocol=STATED))
    asked: list[int] = []
    honest = Context.predict
    monkeypatch.setattr(Context, "predict", lambda self, *a: (asked.append(1), honest(self, *a))[1])
    assert torch.equal(told, fresh().answers(one, 0))
    assert not asked
    for file in (tmp_path / "shared").iterdir():
        file.write_bytes(file.read_bytes()[:50])
    assert torch.equal(told, fresh().answers(one, 0))
    assert len(asked) == len(nets)
    fewer = replace(fresh(), preset=ctx.preset.model_copy(update={"test_limit": 20}))
    assert fewer.answers(one, 0).shape[1] == len(fewer.test()) <= 20


def test_a_learned_rate_is_used(tiny: Dataset) -> None:
    stated = context(tiny, "card").protocol_for(file_of(tiny, learned_lr=0.123).set)  # type: ignore[arg-type]
    assert stated == replace(PROTOCOLS["quick"].for_data(""), lr=0.123)
    both = file_of(tiny, learned_lr=0.123, protocol=STATED.to_card())
    assert context(tiny, "card").protocol_for(both.set) == replace(STATED, lr=0.123)  # type: ignore[arg-type]
    assert context(tiny).protocol_for(both.set) == PROTOCOLS["quick"].for_data("")  # type: ignore[arg-type]


def test_sets_with_different_protocols_train_in_one_call_and_in_order(tiny: Dataset) -> None:
    stating, silent = file_of(tiny, protocol=STATED.to_card()), file_of(tiny)
    sets = [s.set for s in (stating, silent, stating)]
    nets = context(tiny, "card").train(sets, seeds=[1, 2, 3])  # type: ignore[arg-type]
    own = PROTOCOLS["quick"].for_data("")
    wanted = [trained(tiny, silent, p, s) for p, s in ((STATED, 1), (own, 2), (STATED, 3))]
    assert all(same(a, b) for a, b in zip(nets, wanted, strict=True))


def test_utility_reports_both_protocols(tiny: Dataset) -> None:
    idle = replace(STATED, lr=1e-9)
    subject = file_of(tiny, protocol=idle.to_card())
    by_audit = Utility().run(subject, context(tiny), UtilitySettings(), 0)
    by_card = Utility().run(subject, context(tiny, "card"), UtilitySettings(), 0)
    plain = by_card.metric("utility.accuracy")
    assert plain == by_audit.metric("utility.accuracy")  # comparable with every other subject's
    stated = by_card.metric("utility.accuracy", protocol="mine")
    nets = context(tiny, "card").victims(subject, 0)
    right = [
        float(
            (context(tiny).predict(n, tiny.test.images).argmax(1) == tiny.test.labels)
            .double()
            .mean()
        )
        for n in nets
    ]
    assert stated.value == pytest.approx(sum(right) / len(right))
    assert (stated.value or 1) < 0.6 < (plain.value or 0)
    assert not stated.headline
    assert any("--protocol card" in c for c in by_audit.caveats)
    silent = Utility().run(file_of(tiny), context(tiny, "card"), UtilitySettings(), 0)
    assert not any("protocol" in m.params for m in silent.metrics)


def test_a_card_that_cannot_be_followed(tiny: Dataset) -> None:
    odd = file_of(tiny, protocol={"name": "x", "warmup": 3})
    finding = Utility().run(odd, context(tiny), UtilitySettings(), 0)
    assert any("cannot be followed" in c for c in finding.caveats)
    with pytest.raises(BadInput, match="does not know: warmup"):
        context(tiny, "card").victims(odd, 0)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"labels": "store"}, "replays a label store"),
        ({"outlier_weight": 0.5}, "trains on outliers"),
        ({"loss": "kl"}, "needs soft labels"),
    ],
)
def test_a_changed_set_is_never_trained_by_halves(
    tiny: Dataset, change: dict[str, object], words: str
) -> None:
    stated = replace(STATED, **change)  # type: ignore[arg-type]
    subject = file_of(tiny, protocol=stated.to_card())
    assert subject.set is not None
    assert words in missing_part(stated, subject.set)
    with pytest.raises(Unsupported, match=words):
        context(tiny, "card").train([subject.set], seeds=[0])


def diverged(ctx: Context) -> Subject:
    """A checkpoint that gives NaN."""
    data = ctx.data
    network = build(ctx.arch, shape=data.shape, num_classes=4, seed=0, mean=data.mean, std=data.std)
    with torch.no_grad():
        next(network.parameters()).fill_(torch.nan)
    return Subject(id="net", kind="checkpoint", network=network, identity="net")


@pytest.mark.parametrize("name", sorted(AUDITORS.names()))
def test_no_auditor_makes_a_number_of_a_diverged_network(tiny: Dataset, name: str) -> None:
    """Utility once read an accuracy from NaN logits (class 0 is always right on class 0)."""
    ctx = context(tiny)
    auditor = AUDITORS.get(name)
    with pytest.raises(Unsupported):
        auditor.run(diverged(ctx), ctx, auditor.configure("quick"), 0)


@pytest.mark.parametrize("detector", ["neural_cleanse", "patch_gap"])
def test_no_detector_alone_makes_a_number_of_one_either(tiny: Dataset, detector: str) -> None:
    """Neural Cleanse found masks for one that gives NaN."""
    ctx = context(tiny)
    auditor = AUDITORS.get("backdoor-scan")
    with pytest.raises(Unsupported, match="not finite"):
        auditor.run(diverged(ctx), ctx, auditor.configure("quick", {"detectors": detector}), 0)


@pytest.mark.parametrize("name", ["utility", "calibration"])
def test_a_set_whose_training_diverges_says_so(tiny: Dataset, name: str) -> None:
    """Such a private set once made the calibration crash."""
    ctx, subject = context(tiny), file_of(tiny)
    assert subject.set is not None
    wild = replace(subject, set=replace(subject.set, images=1e30 * subject.set.images))
    auditor = AUDITORS.get(name)
    with pytest.raises(Unsupported, match="not finite"):
        auditor.run(wild, ctx, auditor.configure("quick"), 0)


@pytest.mark.parametrize("name", sorted(AUDITORS.names()))
def test_no_auditor_makes_a_number_of_images_that_are_no_numbers(tiny: Dataset, name: str) -> None:
    """Leakage once found no copies in a set of NaN, and reconstruction a ratio of NaN."""
    ctx, subject = context(tiny), file_of(tiny)
    assert subject.set is not None
    broken = replace(subject, set=replace(subject.set, images=torch.nan * subject.set.images))
    auditor = AUDITORS.get(name)
    with pytest.raises(Unsupported):
        auditor.run(broken, ctx, auditor.configure("quick"), 0)


def test_a_list_of_one_needs_no_brackets():
    adversarial = AUDITORS.get("adversarial")
    assert adversarial.configure("quick", {"eps": 0.1}).eps == (0.1,)
    utility = AUDITORS.get("utility")
    assert utility.configure("quick", {"cross_architectures": "MLP"}).cross_architectures == (
        "MLP",
    )
