"""--protocol card: refused before any work where a card cannot be followed; cells of their own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ddaudit.audits import make_config
from ddaudit.audits.costs import trained
from ddaudit.audits.plan import make_plan
from ddaudit.data import load_data
from ddaudit.errors import BadInput
from ddaudit.sets import Card, DistilledSet, save
from ddaudit.training import EvaluationProtocol

STATED = EvaluationProtocol(name="mine", epochs=3, epochs_plain=3, outlier_weight=0.5, augment="")


def _file(folder: Path, *, outliers: bool = True, **protocol: object) -> str:
    data = load_data("digits")
    pick = torch.stack([(data.train.labels == c).nonzero()[0, 0] for c in range(10)])
    card = Card(protocol={**STATED.to_card(), **protocol})
    x = DistilledSet(data.train.pixels(pick), torch.arange(10), 10, card)
    g = torch.Generator().manual_seed(0)
    x = replace(x, outliers=torch.rand(6, 1, 8, 8, generator=g) if outliers else None)
    return str(save(x, folder / "a.safetensors"))


def _plan(path: str, protocol: str | None):
    values = {"subjects": [path], "data": "digits", "auditors": ["utility"], "baselines": []}
    return make_plan(make_config({**values, "protocol": protocol, "device": "cpu"}))


def test_cells_of_the_card_are_other_cells(tmp_path: Path) -> None:
    path = _file(tmp_path)
    plain, audit, card = (_plan(path, p) for p in (None, "audit", "card"))
    assert [c.key for c in plain.cells] == [c.key for c in audit.cells]
    assert not {c.key for c in audit.cells} & {c.key for c in card.cells}
    assert card.context.trains_by == "card"


def test_a_set_with_outliers_trains_by_its_card(tmp_path: Path) -> None:
    """Outliers travel through the file to the victims, who become less sure of them than without."""
    path = _file(tmp_path, epochs_plain=150, lr=0.05)
    sure = {}
    for by in ("audit", "card"):
        plan = _plan(path, by)
        subject = plan.subjects["a.safetensors"]
        assert subject.set is not None
        assert subject.set.outliers is not None
        nets = plan.context.train([subject.set], seeds=[0])
        logits = plan.context.predict(nets[0], subject.set.outliers)
        sure[by] = float(logits.softmax(1).amax(1).mean())
    assert sure["card"] < 0.3 < sure["audit"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"outliers": False}, "trains on outliers, and this set has none"),
        ({"labels": "store"}, "replays a label store, and this set has none"),
        ({"loss": "kl"}, "needs soft labels, and this set's are hard"),
        ({"warmup": 1}, "does not know: warmup"),
        ({"lr": 1e9}, "is not within"),
    ],
)
def test_cards_that_cannot_be_followed_are_refused_before_any_work(
    tmp_path: Path, change: dict[str, object], message: str
) -> None:
    path = _file(tmp_path, **change)  # type: ignore[arg-type]
    with pytest.raises(BadInput, match=message) as caught:
        _plan(path, "card")
    assert path in str(caught.value)
    _plan(path, "audit")  # the audit's own protocol needs none of it


def test_adversarial_training_is_the_audits_protocol_on_attacked_batches(tmp_path: Path) -> None:
    path = _file(tmp_path)
    audit, hard = (_plan(path, p) for p in ("audit", "adversarial"))
    assert not {c.key for c in audit.cells} & {c.key for c in hard.cells}
    ours = hard.context.protocol
    assert ours.robust is not None
    assert replace(ours, robust=None) == audit.context.protocol
    assert trained(hard.context.arch, hard.context.data, ours, images=10).seconds == pytest.approx(
        11
        * trained(hard.context.arch, hard.context.data, audit.context.protocol, images=10).seconds
    )


def test_whose_protocol_is_one_of_three() -> None:
    with pytest.raises(BadInput, match="--protocol"):
        make_config({"subjects": ["dm"], "protocol": "mine"})
