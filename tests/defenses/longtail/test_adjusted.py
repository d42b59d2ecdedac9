"""Logit adjustment, adjusted labels, and the parts of DAMED and unbiased recovery: closed forms, public numbers."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from ddaudit.audits import costs
from ddaudit.data import ImageData
from ddaudit.distillation import distill, resolve
from ddaudit.distillation.expert_paths import ExpertPaths
from ddaudit.distillation.imbalance import Adjustment, biased_loss, sureness
from ddaudit.distillation.layer_statistics import moments, recalibrate
from ddaudit.distillation.lessons import Adjusted, Deferred, Even
from ddaudit.distillation.loops import Job
from ddaudit.distillation.networks import Fresh
from ddaudit.errors import BadInput
from ddaudit.models import Arch
from ddaudit.training import EvaluationProtocol, Extras, train_many
from ddaudit.training.losses import log_shares, loss

LOGITS = torch.tensor([[1.0, -0.5, 0.25], [0.0, 2.0, -1.0]])
LABELS = torch.tensor([[2.0, 0.0, -1.0], [0.5, 0.5, 1.5]]).softmax(1)
SHARES = (torch.tensor([50.0, 8.0, 2.0]) / 60).log()


@pytest.mark.parametrize(
    ("form", "public"),
    [
        # ichbill/LTDD, commit ec8a4b3, distill/DAM-ED_tesla.py, on LOGITS, LABELS and shares 50, 8, 2 of 60:
        ("no", 1.526427984237671),  # SoftCrossEntropy
        ("weights", 0.42641353607177734),  # WeightedSoftCrossEntropy
        (
            "logits",
            2.2266409397125244,
        ),  # SoftCrossEntropy of logits as Balanced_softmax_loss shifts them
    ],
)
def test_the_students_loss_has_the_value_of_the_public_code(form, public):
    assert float(biased_loss(form, SHARES)(LOGITS, LABELS)) == pytest.approx(public, rel=1e-6)


def test_a_student_that_follows_the_records_leans_as_they_do():
    """The loss of logits is least where their softmax is the label's tilted by the shares: Bayes' rule."""
    z = (LABELS.log() + SHARES).requires_grad_(True)
    (slope,) = torch.autograd.grad(biased_loss("logits", SHARES)(z, LABELS), z)
    assert slope.abs().max() < 1e-6
    hard = torch.tensor([0, 2])
    one_hot = F.one_hot(hard, 3).float()
    for form in ("no", "weights", "logits"):
        found = biased_loss(form, SHARES)
        assert float(found(LOGITS, hard)) == pytest.approx(float(found(LOGITS, one_hot)))


def test_lessons_have_closed_forms():
    labels = torch.arange(3).repeat_interleave(torch.tensor([50, 8, 2]))
    train = ImageData(torch.zeros(60, 1, 2, 2, dtype=torch.uint8), labels, ("a", "b", "c"))
    assert Adjusted(2.0).shift(train).exp().tolist() == pytest.approx(
        [(n / 60) ** 2 for n in (50, 8, 2)]
    )
    tilt = Deferred().tilt(train)
    assert tilt.tolist() == pytest.approx(
        [3 * (1 / n) / (1 / 50 + 1 / 8 + 1 / 2) for n in (50, 8, 2)]
    )
    assert Deferred(0.0).tilt(train).tolist() == [1, 1, 1]
    assert torch.bincount(labels[Even().records(train)]).tolist() == [50, 50, 50]
    assert torch.isfinite(log_shares(torch.zeros(5, dtype=torch.int64), 3)).all(), (
        "classes without records"
    )


def test_weights_of_classes_grow_with_the_square_of_the_time():
    """One step of four: 1 + (w - 1) / 16 of the classes' cross-entropies, over images and not over weights."""
    how = EvaluationProtocol(
        "t", lr=0.1, momentum=0.0, weight_decay=0.0, augment="", epochs_plain=3, batch_size=6
    )
    assert how.schedule(6).steps == 4
    x = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    y = torch.tensor([0, 0, 0, 1, 1, 2])
    tilt = torch.tensor([0.25, 0.75, 2.0])
    seen = {}

    def keep(position, passes, parameters):
        seen[passes] = {n: p.detach().clone() for n, p in parameters.items()}

    common = {"arch": Fresh("ConvNetD2W8").resolve(), "num_classes": 3, "mean": [0.0], "std": [1.0]}
    train_many(
        [(x, y)], protocol=how, seeds=[0], extras=[Extras(tilt=tilt)], after_pass=keep, **common
    )
    net = Fresh("ConvNetD2W8").make(
        shape=(1, 8, 8), num_classes=3, seed=0, device=torch.device("cpu")
    )
    net.body.load_state_dict(seen[0])
    weight = 1 + (tilt - 1) / 16
    each = F.cross_entropy(net.body(x), y, reduction="none")
    (weight[y] * each).mean().backward()
    for name, p in net.body.named_parameters():
        torch.testing.assert_close(
            seen[1][name], seen[0][name] - 0.1 * p.grad, rtol=1e-4, atol=1e-6
        )
    found = loss(net.body(x), y, how, weight=tilt)
    assert float(found.detach()) == pytest.approx(float((tilt[y] * each).mean().detach()))
    with pytest.raises(BadInput, match="weighs classes in a cross-entropy"):
        train_many(
            [(x, y)],
            protocol=replace(how, loss="mse"),
            seeds=[0],
            extras=[Extras(tilt=tilt)],
            **common,
        )


def test_adsa_finds_the_bias_that_was_put_in():
    """Teachers equally sure of every class, plus 1.5 times the log of the shares: tau is 1.5."""
    truth = torch.arange(3).repeat_interleave(4)
    fair = 4.0 * F.one_hot(truth, 3) + 0.1 * torch.randn(
        12, 3, generator=torch.Generator().manual_seed(0)
    )
    biased = fair + 1.5 * SHARES
    found = Adjustment().strength(biased, truth, SHARES)
    assert found == pytest.approx(1.5, abs=0.1)
    spread = [float(sureness(biased - tau * SHARES, truth).std()) for tau in (0.0, found, 3.0)]
    assert spread[1] == min(spread)
    assert Adjustment(tau=0.7).strength(biased, truth, SHARES) == 0.7


def test_recalibrated_statistics_are_means_over_classes(tiny):
    """Twice as many records of a class change nothing, and layers see what the ones before them make now."""
    net = Fresh("ConvNetD2W8BN").make(
        shape=tiny.shape, num_classes=4, seed=0, device=torch.device("cpu")
    )
    x, y = tiny.train.pixels(), tiny.train.labels
    order = torch.cat([torch.arange(len(y)), (y == 0).nonzero()[:, 0]])
    recalibrate(net, x[order], y[order], 4)
    uneven = {n: b.clone() for n, b in net.body.named_buffers()}
    recalibrate(net, x, y, 4)
    for name, buffer in net.body.named_buffers():
        torch.testing.assert_close(buffer, uneven[name], rtol=1e-4, atol=1e-6)
    for (module, _), found in moments(net, x, y, 4, convolutions=False).items():
        torch.testing.assert_close(module.running_mean, found.mean.mean(0), rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(module.running_var, found.total.mean(0), rtol=1e-4, atol=1e-6)


def test_the_last_passes_of_a_path_move_its_classifier_alone(tiny):
    everyone = torch.ones(1, len(tiny.train), dtype=torch.bool)
    job = Job(tiny.train, everyone, tiny, 1, 0, torch.device("cpu"))
    mean, std = resolve("damed").constants(tiny)
    part = ExpertPaths("ConvNetD2W8", count=2, epochs=1, head=2, sam=0.01, lr=0.1)
    paths = part.learn(job, mean, std).paths
    first, then, last = (paths.at(0, t) for t in (0, 1, 3))
    moved = {n for n in last if not torch.equal(last[n], then[n])}
    assert moved == {"classifier.weight", "classifier.bias"}
    assert all(not torch.equal(first[n], then[n]) for n in first if n.endswith("0.weight"))


FAST = {
    "loop.iterations": 2, "loop.steps": 2, "loop.span": 1, "loop.starts.last": 2, "networks.count": 2,
    "networks.epochs": 3, "networks.arch": "ConvNetD2W8", "networks.width": None,
}  # fmt: skip
TEACHER = {"networks.arch": "ConvNetD1W8BN", "networks.epochs": 2, "labels.epochs": 2}
LEARNER = {
    "loop.iterations": 2,
    "networks.arch": "ConvNetD1W8",
    "networks.width": None,
    "networks.records": 8,
}


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("damed", FAST),
        ("datm+balanced", FAST | {"loop.starts.opening": 1}),
        ("mtt+fair", FAST),
        ("mct+logit-adjusted", FAST | {"loop.rate.lr": 1e-7}),
        ("sre2l+logit-adjusted", TEACHER | {"loop.iterations": 2}),
        ("sre2l+adsa", TEACHER | {"loop.iterations": 2}),
        ("random+fkd+balanced+adsa", TEACHER),
        ("random+fkd+unbiased", TEACHER),
        (
            "dm+soft+adsa",
            {
                "loop.iterations": 2,
                "labels.epochs": 1,
                "labels.arch": "ConvNetD1W8",
                "labels.width": None,
            },
        ),
        ("uni-level", TEACHER | {"loop.iterations": 2, "networks.batch_size": 16}),
        (
            "tgdd",
            {k: v for k, v in FAST.items() if k.startswith("networks")} | {"loop.iterations": 2},
        ),
        ("idm+logit-adjusted", LEARNER),
        ("idc+balanced", LEARNER | {"loop.outer": 1}),
    ],
)
def test_they_run_on_a_long_tail(colored_tail, name, options):
    data = colored_tail
    made = distill(
        resolve(name, profile="small", options=options), data.train, data=data, ipc=2, seed=0
    )
    assert made.images.shape[0] == 8
    assert torch.isfinite(made.images).all()
    if "adsa" in name and made.store is not None:
        assert any("adjusted for the records' imbalance by tau" in note for note in made.card.notes)


@pytest.fixture
def colored_tail(tiny):
    """The classes keep 12, 6, 3 and 1 record; groups take turns."""
    keep = torch.cat(
        [(tiny.train.labels == c).nonzero()[:n, 0] for c, n in enumerate((12, 6, 3, 1))]
    )
    train = tiny.train.subset(keep)
    return replace(
        tiny, train=replace(train, groups=torch.arange(len(train)) % 2, group_names=("a", "b"))
    )


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("dm+logit-adjusted", "trains none on them"),
        ("datm+balanced+logit-adjusted", "two remedies for one imbalance"),
        ("damed+balanced", "experts' bias"),
        ("damed+fair", "experts' bias"),
        ("damed+logit-adjusted", "experts' bias"),
        ("uni-level+balanced", "have a lesson"),
        ("uni-level+fair", "have a lesson"),
        ("dm+adsa", "has hard labels"),
        ("datm+adsa", "learns its labels"),
        ("dm+unbiased", "no teachers"),
        ("mtt+balanced+dp", "with classes weighed"),
        ("sre2l+logit-adjusted+dp", "networks trained on them alone"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(name, why):
    with pytest.raises(BadInput, match=why) as refused:
        resolve(name, profile="small")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ["dm+adversarial", "dm+guard", "dc+cvar"])
def test_lessons_are_for_the_networks_that_other_defenses_bring_in(name):
    """They learn of the records, so that the imbalance is theirs too."""
    assert resolve(f"{name}+balanced").networks.lesson == Even()
    assert resolve(f"{name}+logit-adjusted").networks.lesson == Adjusted()
    assert not any("balanced already" in d for d in resolve(f"{name}+balanced").deviations)


def test_damed_needs_passes_of_the_classifier(tiny):
    with pytest.raises(ValueError, match="two positive weights"):
        replace(resolve("damed").loop, decoupled=(1.0,))
    options = FAST | {"networks.head": 1, "loop.span": 2, "networks.epochs": 4}
    short = resolve("damed", profile="small", options=options)
    everyone = torch.ones(1, len(tiny.train), dtype=torch.bool)
    with pytest.raises(BadInput, match="trained for 1"):
        short.loop.run(short, Job(tiny.train, everyone, tiny, 1, 0, torch.device("cpu")))


def test_all_records_can_be_balanced_or_trained_on_with_adjusted_logits(tiny):
    """``full``: records of small classes repeat; or the card says that the shares are added to the logits."""
    from ddaudit.training import PROTOCOLS

    keep = (tiny.train.labels != 2) | (torch.arange(len(tiny.train)) < 60)
    tailed = replace(tiny, train=tiny.train.subset(keep))
    counts = tailed.train.class_counts()
    assert counts[2] < counts.max()
    even = distill(resolve("full+balanced"), tailed.train, data=tailed, ipc=1, seed=0)
    assert torch.bincount(even.labels).tolist() == [int(counts.max())] * 4
    assert set(even.card.member_indices) == set(range(len(tailed.train)))
    assert torch.equal(even.images, tailed.train.pixels(torch.tensor(even.card.member_indices)))
    adjusted = distill(resolve("full+logit-adjusted"), tailed.train, data=tailed, ipc=1, seed=0)
    stated = EvaluationProtocol.from_card(adjusted.card.protocol)
    assert (stated.adjust, stated.epochs, stated.key != PROTOCOLS["dc"].key) == (1.0, 1000, True)
    taught = resolve("full+fkd+logit-adjusted")  # its teachers learn so, and the views' labels stay
    assert isinstance(taught.networks.lesson, Adjusted)
    assert taught.protocol.labels == "store"
    for name, says in {
        "random+balanced": "as many records of each class",
        "random+logit-adjusted": "trains none on them",
        "full+balanced+logit-adjusted": "two remedies",
    }.items():
        with pytest.raises(BadInput, match=says):
            resolve(name)
    with pytest.raises(BadInput, match=r"loop\.even"):
        resolve("random", options={"loop.even": True})
    assert costs.images_of(resolve("full+balanced"), tailed, 1) == len(even)


def test_a_protocol_that_adjusts_adds_the_shares_of_the_set():
    """As the engine does with the same constants given, hard labels or soft ones."""
    labels = torch.arange(3).repeat_interleave(torch.tensor([20, 8, 4]))
    images = torch.rand(32, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    how = EvaluationProtocol("t", augment="", epochs_plain=3, batch_size=8)
    arch = Arch.parse("MLPD1W8")

    def weights(protocol, y, shift=None, strategy="auto"):
        (net,) = train_many(
            [(images, y)], arch=arch, num_classes=3, mean=(0.5,), std=(0.5,), protocol=protocol, seeds=[0],
            extras=[Extras(shift=shift)], strategy=strategy,
        )  # fmt: skip
        return torch.cat([p.flatten() for p in net.parameters()]).detach()

    given = weights(how, labels, 2 * (torch.tensor([20.0, 8, 4]) / 32).log())
    asked = replace(how, adjust=2.0)
    assert torch.equal(weights(asked, labels), given)
    assert torch.allclose(weights(asked, F.one_hot(labels, 3).float()), given, atol=1e-6)
    assert torch.equal(weights(asked, labels, strategy="stacked"), given)
    assert not torch.allclose(weights(how, labels), given, atol=1e-3)
    with pytest.raises(BadInput, match="neither a label store nor MSE"):
        replace(asked, loss="mse")
