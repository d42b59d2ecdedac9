"""Our attacks: closed forms on linear networks, and the verdicts of the reference repository."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ddaudit.attacks.adversarial import known_answers, suite
from ddaudit.attacks.adversarial.apgd import APGD, APGDTargeted
from ddaudit.attacks.adversarial.ball import UNBOUNDED, Ball, Noise
from ddaudit.attacks.adversarial.execution import Model, classify, frozen, run, verify
from ddaudit.attacks.adversarial.fab import FAB, to_hyperplane
from ddaudit.attacks.adversarial.gradient import FGSM, MIFGSM, PGD, VMIFGSM, Jitter
from ddaudit.attacks.adversarial.losses import dlr, loss, margin, targeted
from ddaudit.attacks.adversarial.minimum_norm import CarliniWagner, DeepFool
from ddaudit.attacks.adversarial.spsa import SPSA
from ddaudit.attacks.adversarial.square import Square, _pyramids

EVERY = {
    "fgsm": FGSM(), "pgd": PGD(), "pgd-dlr": PGD(loss="dlr"), "mi": MIFGSM(), "vmi": VMIFGSM(3),
    "jitter": Jitter(), "apgd-ce": APGD("ce", 10), "apgd-dlr": APGD("dlr", 10), "apgd-t": APGDTargeted(10),
    "fab": FAB(10), "square": Square(20), "spsa": SPSA(30, samples=8, rate=0.02), "cw": CarliniWagner(40, 2, rate=0.05),
    "deepfool": DeepFool(),
}  # fmt: skip


# ---- closed forms ------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", ["Linf", "L2"])
@pytest.mark.parametrize(
    "attack",
    [APGD("ce"), APGD("dlr"), APGDTargeted(50), FAB(30), PGD(40, loss="margin"), DeepFool()],
    ids=lambda a: a.name,
)
def test_strong_attacks_equal_the_closed_form_of_a_linear_network(attack, norm):
    """A linear network's minimal distance is known: no image nearer than eps may stand, none further may fall."""
    case = known_answers.linear_case(norm=norm)
    result = run(case.network, case.pixels, case.labels, [attack], eps=case.eps, norm=norm)
    wrong = (result.survived != case.robust).nonzero().flatten().tolist()
    # The window around eps is narrow; PGD's and APGD-CE's softmax pulls them towards several rivals at once.
    assert len(wrong) <= (1 if attack.name in ("pgd-40", "apgd-ce") else 0)
    assert not bool((~result.survived & case.robust).any())


@pytest.mark.parametrize("attack", EVERY.values(), ids=EVERY)
@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_no_attack_breaks_what_is_out_of_reach_and_every_attack_breaks_what_is_near(attack, norm):
    case = known_answers.linear_case(norm=norm, images=48)
    radius = known_answers.critical_radius(case.network, case.pixels, case.labels, norm=norm)
    eps = float(radius[radius > 0].median())
    result = run(case.network, case.pixels, case.labels, [attack], eps=eps, norm=norm)
    assert result.invalid == 0
    assert not bool((~result.survived & (radius > eps)).any())
    far = 1.6 * float(radius.max())
    left = run(case.network, case.pixels, case.labels, [attack], eps=far, norm=norm).survived
    # Few queries and steps here; CW minimises L2 and is only thresholded in Linf; Jitter's probabilities saturate.
    weak = attack.name in ("square", "cw", "spsa-30", "jitter-10")
    assert int(left.sum()) < (40 if weak else 1)


def test_deepfool_finds_the_exact_distance_to_a_linear_boundary():
    """Two classes: one step reaches the boundary; 2 % overshoot and 1e-6 beyond it are all that is added."""
    for norm in ("Linf", "L2"):
        case = known_answers.linear_case(norm=norm, classes=2)
        radius = known_answers.critical_radius(case.network, case.pixels, case.labels, norm=norm)
        right = radius > 0
        x, y = case.pixels[right], case.labels[right]
        made = DeepFool().nearest(Model(case.network, torch.device("cpu")), x, y, Ball(1.0, norm))
        size = Ball(1.0, norm).size(made - x).double()
        torch.testing.assert_close(size, 1.02 * radius[right], rtol=1e-3, atol=1e-5)


def test_carlini_wagner_comes_near_the_exact_distance_and_is_thresholded_at_eps():
    case = known_answers.linear_case(norm="L2", classes=2)
    radius = known_answers.critical_radius(case.network, case.pixels, case.labels, norm="L2")
    eps = float(radius.median())
    result = run(
        case.network, case.pixels, case.labels, [CarliniWagner(150, 5)], eps=eps, norm="L2"
    )
    assert not bool((~result.survived & (radius > eps)).any())
    assert not bool((result.survived & (radius < 0.9 * eps)).any())


@pytest.mark.parametrize("norm", ["Linf", "L2"])
@pytest.mark.parametrize("box", [(0.0, 1.0), (-torch.inf, torch.inf)])
def test_projection_on_a_hyperplane_is_the_smallest_change(norm, box):
    """Against scipy's solvers of the same constrained problem."""
    from scipy.optimize import linprog, minimize

    g = torch.Generator().manual_seed(0)
    points, normals = torch.rand(6, 7, generator=g), torch.randn(6, 7, generator=g)
    normals[0, 2] = 0.0
    offset = torch.tensor([0.3, -0.2, 0.9, -0.9, 0.0, 0.5])
    made = to_hyperplane(points, normals, offset, norm=norm, low=box[0], high=box[1])
    torch.testing.assert_close((normals * made).sum(1), offset, atol=1e-5, rtol=1e-4)
    assert bool(((points + made >= box[0] - 1e-6) & (points + made <= box[1] + 1e-6)).all())
    for p, w, b, d in zip(points.double(), normals.double(), offset.tolist(), made, strict=True):
        bounds = [(float(box[0] - v), float(box[1] - v)) for v in p]
        if norm == "L2":
            best = minimize(
                lambda t: t @ t, torch.zeros(7), bounds=bounds, method="SLSQP", tol=1e-14,
                constraints={"type": "eq", "fun": lambda t, w=w, b=b: t @ w.numpy() - b},
            ).fun ** 0.5  # fmt: skip
            assert float(d.norm()) == pytest.approx(best, abs=1e-4)
        else:  # minimise t with |d_i| <= t
            eye, one = torch.eye(7), torch.ones(7, 1)
            rows = torch.cat([torch.cat([eye, -one], 1), torch.cat([-eye, -one], 1)])
            best = linprog(
                [0.0] * 7 + [1.0], A_ub=rows, b_ub=[0.0] * 14, A_eq=[[*w.tolist(), 0.0]], b_eq=[b],
                bounds=[*bounds, (0, None)],
            ).fun  # fmt: skip
            assert float(d.abs().max()) == pytest.approx(best, abs=1e-5)


def test_projection_out_of_reach_moves_as_far_as_the_box_allows():
    d = to_hyperplane(
        torch.full((1, 3), 0.5), torch.ones(1, 3), torch.tensor([9.0]), norm="L2", low=0, high=1
    )
    assert d.tolist() == [[0.5, 0.5, 0.5]]


# ---- the reference repository ------------------------------------------------------------------------

# github.com/fra31/auto-attack, commit a39220048b3c9f2cca9a4d3a54604793c68eca7e: verdict (1 = stands) of each image of
# formula.images() under its classes with 50 iterations, 5 targets, seed 0.
REFERENCE = {
    ("Linf", 0.02): {
        "apgd-ce": "0010000000011001100000100000001001000011",
        "apgd-dlr": "0000000000001000100000100000001000000001",
        "apgd-t": "0000000000001000100000100000001000000001",
        "fab-t": "0000000000001000100000100000001000000001",
        "square": "1010110000111001100110100000011001100011",
    },
    ("L2", 0.1): {
        "apgd-ce": "1010110000111001100110101010011001100011",
        "apgd-dlr": "1010110000111001100110101000011001100011",
        "apgd-t": "1010110000111001100110101000011001100011",
        "fab-t": "1010110000111001100110101000011001100011",
        "square": "1010111100111001101110111110011001111111",
    },
}
OURS = {
    "apgd-ce": APGD("ce", 50), "apgd-dlr": APGD("dlr", 50), "apgd-t": APGDTargeted(50, 5), "fab-t": FAB(50, 5),
    "square": Square(300, rescale=False),
}  # fmt: skip


@pytest.mark.parametrize(("norm", "eps"), REFERENCE)
def test_verdicts_equal_the_reference_implementation_image_by_image(norm, eps, formula):
    net, x = formula.network(), formula.images()
    y = classify(net, x)
    for name, verdicts in REFERENCE[norm, eps].items():
        theirs = torch.tensor([v == "1" for v in verdicts])
        survived = run(net, x, y, [OURS[name]], eps=eps, norm=norm).survived
        if (
            name == "square"
        ):  # a random search: its windows reach one row and column more, and its draws are others
            assert not bool((survived & ~theirs).any())
            assert int((survived != theirs).sum()) <= 4
        else:
            assert survived.tolist() == theirs.tolist(), name


# ---- losses ------------------------------------------------------------------------------------------


def test_losses_by_hand():
    z, y = torch.tensor([[3.0, 1.0, 0.0, -1.0]]), torch.tensor([0])
    assert float(margin(z, y)) == -2.0
    assert float(margin(-z - 5, y)) == 4.0  # all logits negative: no product with zeros
    assert float(dlr(z, y)) == pytest.approx(-2 / 3)
    assert float(targeted(z, y, torch.tensor([2]))) == pytest.approx(-3 / (3 - (0.0 - 1.0) / 2))
    assert float(dlr(10 * z, y)) == pytest.approx(float(dlr(z, y)))


@pytest.mark.parametrize(("classes", "says"), [(2, "either form"), (3, "its targeted form")])
def test_few_classes_fall_back_to_the_margin_and_say_so(classes, says):
    from ddaudit.attacks.adversarial.losses import loss_note

    z, y = torch.tensor([[1.0, 0.5, -1.0]])[:, :classes], torch.tensor([0])
    assert says in loss_note(classes)
    assert loss_note(4) == ""
    assert float(targeted(z, y, torch.tensor([1]))) == -0.5
    if classes == 2:
        assert float(loss("dlr", z, y)) == -0.5


# ---- shapes, boxes, batches --------------------------------------------------------------------------


def linear(classes: int, size: int) -> nn.Module:
    net = nn.Sequential(nn.Flatten(), nn.Linear(size, classes))
    with torch.no_grad():
        net[1].weight.copy_(torch.sin(torch.arange(classes * size).float() ** 2).view(classes, -1))
    return net


@pytest.mark.parametrize("attack", EVERY.values(), ids=EVERY)
@pytest.mark.parametrize(
    "shape", [(1, 5, 9), (2, 8, 3), (4, 6, 6), (1, 1, 11)], ids=lambda s: "x".join(map(str, s))
)
def test_any_shape_any_channels_two_classes(attack, shape):
    size = shape[0] * shape[1] * shape[2]
    net = linear(2, size)
    x = torch.rand(4, *shape, generator=torch.Generator().manual_seed(1))
    y = classify(net, x)
    for norm, eps in (("Linf", 0.5), ("L2", 2.0)):
        result = run(net, x, y, [attack], eps=eps, norm=norm)
        assert result.invalid == 0
        assert bool(verify(x, result.adversarial, eps=eps, norm=norm).all())


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_standardised_values_have_no_box(norm):
    """A table's record is (1, 1, D) without bounds: autoattack equals the closed form far outside [0, 1]."""
    case = known_answers.linear_case(norm=norm, shape=(1, 1, 20), classes=3)
    shifted = 40 * (case.pixels - 0.5)
    with torch.no_grad():
        labels = case.network(shifted).argmax(1)
    radius = known_answers.critical_radius(case.network, shifted, labels, norm=norm)
    ordered = radius.sort().values
    eps = float(ordered[11] + ordered[12]) / 2
    result = suite.autoattack(
        case.network, shifted, labels, eps=eps, norm=norm, bounds=UNBOUNDED, steps=40, queries=50
    )
    assert result.survived.tolist() == (radius > eps).tolist()
    assert float(result.adversarial.abs().max()) > 1


@pytest.mark.parametrize("attack", EVERY.values(), ids=EVERY)
def test_no_verdict_depends_on_the_batch_an_image_is_in(attack, formula):
    net, x = formula.network(), formula.images(12)
    y = classify(net, x)
    whole, pieces = (
        run(net, x, y, [attack], eps=0.02, seed=3, batch_size=b).survived for b in (12, 5)
    )
    assert whole.tolist() == pieces.tolist()


def test_broken_images_leave_same_accuracy_fewer_forwards(formula):
    net, x = formula.network(), formula.images()
    y = classify(net, x)
    stay, leave = (
        run(net, x, y, [PGD(20, random_start=False, leave=flag)], eps=0.02)
        for flag in (False, True)
    )
    assert leave.survived.tolist() == stay.survived.tolist()
    assert leave.stages[0].forwards < 0.7 * stay.stages[0].forwards


@pytest.mark.parametrize("norm", ["Linf", "L2"])
@pytest.mark.parametrize("attack", [APGDTargeted(steps=20), FAB(steps=20), Square(300)])
def test_what_is_tried_at_once_gives_what_is_tried_in_turn(attack, norm, formula):
    net, x = formula.network(), formula.images()
    y, ball = classify(net, x), Ball(0.02 if norm == "Linf" else 0.2, norm)

    def fooled(images: torch.Tensor, room: int) -> tuple[torch.Tensor, int]:
        with frozen(net, room=room) as model:
            made = attack(model, x[images], y[images], ball, Noise(0, images))
        return classify(net, made) != y[images], model.calls

    every = torch.arange(len(x))
    in_turn, _ = fooled(every, room=1)
    assert torch.equal(in_turn, fooled(every, room=64)[0])
    assert 0 < int(in_turn.sum()) < len(x)
    stand = every[~in_turn][:2]
    assert fooled(stand, room=64)[1] < 0.7 * fooled(stand, room=1)[1]


def test_square_reports_the_queries_it_needed(formula):
    net, x = formula.network(), formula.images()
    y = classify(net, x)
    made, needed = Square(100, rescale=False).search(
        Model(net, x.device), x, y, Ball(0.03, "Linf"), Noise(0, torch.arange(len(x)))
    )
    broken = classify(net, made) != y
    assert torch.equal(needed > 0, broken)
    assert int(needed.max()) > 1
    few = Square(int(needed.max()) - 2, rescale=False).search(
        Model(net, x.device), x, y, Ball(0.03, "Linf"), Noise(0, torch.arange(len(x)))
    )[1]
    assert int((few > 0).sum()) == int(broken.sum()) - int((needed == needed.max()).sum())


def test_square_halves_its_windows_by_its_budget_and_within_autoattack_by_the_published_one():
    """The authors' p_selection, by hand: halved after 10, 50, 200, 500, ... of 10 000 queries."""
    alone, whole = Square(1000), Square(10_000)
    for share, query in ((0.8, 0), (0.4, 12), (0.2, 60), (0.1, 201), (0.8 / 2**9, 9000)):
        assert whole.window(query) == pytest.approx(share)
        assert alone.window(-(-query // 10)) == pytest.approx(share)
    inside = suite.standard()[-1]
    assert inside.window(4999) == pytest.approx(0.8 / 2**7)
    assert Square(5000).window(4999) == pytest.approx(0.8 / 2**9)


def test_pyramids_have_length_one_and_balance():
    g = torch.Generator().manual_seed(0)
    for sides in ((4, 4), (5, 3), (1, 6), (6, 1), (1, 1)):
        made = _pyramids(*sides, g)
        assert made.shape == sides
        assert float(made.norm()) == pytest.approx(1.0, abs=1e-6)


def test_rand_version_averages_passes_of_a_random_network(formula):
    class Shaky(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.g = formula.network(), torch.Generator().manual_seed(0)

        def forward(self, x):
            z = self.net(x)
            return z + 0.01 * torch.randn(z.shape, generator=self.g)

    x = formula.images(10)
    y = classify(formula.network(), x)
    attacks = suite.rand(steps=5, repeats=4)
    result = run(Shaky(), x, y, attacks, eps=0.05)
    assert [s.name for s in result.stages] == ["apgd-ce", "apgd-dlr"]
    assert result.stages[0].model_calls % 4 == 0
    assert result.robust_accuracy < 0.5
