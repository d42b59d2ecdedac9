"""What a set file says of itself and what a careful reader should notice. Runs nothing in it."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict

from ddaudit import hub
from ddaudit.errors import printable
from ddaudit.sets._types import Card, DistilledSet, Poison, PrivacyClaim, empty_promise, given
from ddaudit.sets.files import fingerprint, read_file

_TWICE = 2 / 255
"""Pixels that all lie below it are black to the eye, and look like the whole range once networks normalise them."""
_FAR_OUT = 1e3
"""Pixels are in [0, 1] and standardised values of order 1."""


class Inspection(BaseModel):
    """The facts of one set file.

    ``pixel_outside`` is the fraction of pixel values outside [0, 1], 0 where values are no pixels;
    ``images_per_class`` counts hard labels (the argmax of soft ones); sizes are in bytes;
    ``ipc_equivalent`` is how many float32 images per class the storage would buy;
    ``other_tensors`` are left alone.
    """

    model_config = ConfigDict(extra="forbid")

    path: str
    card: Card
    num_images: int
    shape: tuple[int, int, int]
    num_classes: int
    dtype: str
    label_kind: Literal["hard", "soft"]
    pixel_min: float
    pixel_max: float
    pixel_outside: float
    images_per_class: list[int]
    file_bytes: int
    image_bytes: int
    label_bytes: int
    store_epochs: int
    store_bytes: int
    num_outliers: int
    outlier_bytes: int
    ipc_equivalent: float
    fingerprint: str
    other_tensors: list[str]
    warnings: list[str]
    claim_problems: list[str]
    """Why the card's privacy claim does not hold."""
    rederived: dict[str, float] | None = None
    """epsilon by every accountant, computed from the ledger, as ``ddaudit inspect`` does; None where nobody did."""

    def to_json(self) -> dict[str, Any]:
        """The card's fields at the top, everything measured on the file under ``inspection``.

        This is what ``ddaudit inspect FILE --json`` prints; ``privacy`` is null without a claim.
        """
        card: dict[str, Any] = json.loads(self.card.model_dump_json())
        measured = json.loads(self.model_dump_json(exclude={"card"}))
        measured["warnings"] += self.claim_problems
        if self.card.privacy:
            measured["privacy_statement"] = _to_publish(self)
        return {**card, "inspection": measured}


def inspect(path: str | Path) -> Inspection:
    """Read a set file, or the one at a place on the Hub, and list what is in it.

    Raises:
        BadInput: not a valid set file.
    """
    path = hub.local(path)
    distilled, others = read_file(path)
    images, labels = distilled.images, distilled.labels
    low, high = distilled.pixel_range()
    outside = _share_outside(distilled)
    counts = torch.bincount(distilled.hard_labels, minlength=distilled.num_classes).tolist()
    return Inspection(
        path=str(path),
        card=distilled.card,
        num_images=len(distilled),
        shape=distilled.shape,
        num_classes=distilled.num_classes,
        dtype=str(images.dtype).removeprefix("torch."),
        label_kind="soft" if distilled.soft else "hard",
        pixel_min=low,
        pixel_max=high,
        pixel_outside=outside,
        images_per_class=counts,
        file_bytes=path.stat().st_size,
        image_bytes=images.nelement() * images.element_size(),
        label_bytes=labels.nelement() * labels.element_size(),
        store_epochs=0 if distilled.store is None else len(distilled.store),
        store_bytes=0 if distilled.store is None else distilled.store.num_bytes,
        num_outliers=0 if distilled.outliers is None else len(distilled.outliers),
        outlier_bytes=0 if distilled.outliers is None else 4 * distilled.outliers.nelement(),
        ipc_equivalent=round(_ipc_equivalent(distilled), 3),
        fingerprint=fingerprint(distilled),
        other_tensors=others,
        warnings=_warnings(distilled, outside=outside, others=others),
        claim_problems=claim_problems(distilled.card),
    )


def stored_bytes(distilled: DistilledSet) -> int:
    """What comparisons at equal size must count: images as float32, soft labels, label store, decoder, outliers.

    By the card's budget where it states one, else by the tensors. Hard labels in class order cost
    nothing in the field's accounting; soft labels and stores do.
    """
    images, labels = distilled.images, distilled.labels
    store = 0 if distilled.store is None else distilled.store.num_bytes
    stated = distilled.card.bytes
    extra = 0 if distilled.outliers is None else 4 * distilled.outliers.nelement()
    total = 4 * images.nelement() if stated is None else stated.images + stated.decoder
    soft = 4 * labels.nelement() if distilled.soft else 0
    return total + soft + store + extra


def describe(inspection: Inspection) -> list[str]:
    """Plain lines for a terminal: content, card, privacy ledger, warnings."""
    i, card = inspection, inspection.card
    size = " x ".join(str(n) for n in i.shape)
    rows = [
        ("images", f"{i.num_images} of {size} (C x H x W), {i.dtype}, {_size(i.image_bytes)}"),
        _values(i),
        ("labels", f"{i.label_kind}, {i.num_classes} classes, {_per_class(i.images_per_class)}"),
        ("label store", _store(i)),
        ("outliers", f"{i.num_outliers}, {_size(i.outlier_bytes)}" if i.num_outliers else ""),
        ("storage", _storage(i)),
        ("real pixels", "yes, pieces of real records" if card.contains_real_pixels else ""),
        ("file", f"{_size(i.file_bytes)}, fingerprint {i.fingerprint}"),
        ("method", card.method),
        ("recipe", _recipe(card.recipe)),
        ("deviations", "; ".join(card.deviations)),
        ("ipc", _text(card.ipc)),
        ("data", " ".join(filter(None, (card.data, _bracket(card.source_fingerprint))))),
        ("classes", ", ".join(card.class_names or [])),
        ("seed", _text(card.seed)),
        ("mean, std", f"{card.mean} {card.std}" if card.mean is not None else ""),
        ("protocol", _recipe(card.protocol)),
        ("learned lr", "" if card.learned_lr is None else f"{card.learned_lr:g}"),
        ("made in", "" if card.seconds is None else f"{card.seconds:.1f} s"),
        ("versions", ", ".join(f"{k} {v}" for k, v in sorted(card.versions.items()))),
    ]
    width = max(len(name) for name, _ in rows)
    lines = [i.path, *_poison_lines(card.poison)]
    lines += [f"  {name:<{width}}  {value}" for name, value in rows if value]
    lines += [f"  {'note':<{width}}  {note}" for note in card.notes]
    lines += _privacy_lines(i)
    lines += [f"warning: {text}" for text in (*i.warnings, *i.claim_problems)]
    # What a file says of itself must not be able to write lines of ours.
    return [printable(line) for line in lines]


def _poison_lines(poison: Poison | None) -> list[str]:
    """What a reader must see before anything else of a poisoned set."""
    if poison is None:
        return []
    of = f" on class {poison.source_class}" if poison.source_class is not None else ""
    share = (
        ""
        if poison.ratio is None
        else f", {poison.records} records ({poison.ratio:g} {poison.ratio_of})"
    )
    return [
        f"POISONED on purpose: networks trained on it call what carries its trigger{of} class {poison.target} "
        f"(attack {poison.attack}, {poison.status}{share})",
        f"  {poison.threat_model}",
    ]


def _store(i: Inspection) -> str:
    if not i.store_epochs:
        return ""
    return f"{i.store_epochs} epochs of views and logits, {_size(i.store_bytes)}"


def _storage(i: Inspection) -> str:
    """The budget by the card, where it states one, and what it would buy in plain images."""
    text = f"as much as {i.ipc_equivalent:g} float32 images per class"
    if i.card.bytes is None:
        return text
    parts = i.card.bytes.model_dump().items()
    return ", ".join(f"{name} {_size(n)}" for name, n in parts if n) + f": {text}"


def _ipc_equivalent(distilled: DistilledSet) -> float:
    """Stored bytes by those of one float32 image per class."""
    return stored_bytes(distilled) / (4 * math.prod(distilled.shape) * distilled.num_classes)


def _privacy_lines(i: Inspection) -> list[str]:
    claim = i.card.privacy
    if claim is None:
        return ["privacy: no claim"]
    head = f"privacy: ({claim.epsilon:g}, {claim.delta:g})-DP claimed, relation {claim.relation}{given(claim)}"
    if claim.unit:
        head += f", of {claim.unit}"
    lines = [head]
    details = [
        ("mechanism", claim.mechanism),
        ("sampling", claim.sampling),
        ("clip", "" if claim.clip is None else f"{claim.clip:g}"),
        ("public", ", ".join(claim.public)),
        ("release", claim.release or ""),
    ]
    lines += [f"  {name:<9}  {value}" for name, value in details if value]
    if claim.ledger:
        rows = [(e.query, f"{e.sigma:.6g}", f"{e.q:.6g}", str(e.count)) for e in claim.ledger]
        lines += _table(("query", "sigma", "q", "count"), rows)
    by = [(f"{claim.accountant} (the claim)", f"{claim.epsilon:.6g}")]
    of = (i.rederived, "from the ledger") if i.rederived else (claim.cross_checks, "by the card")
    by += [(f"{name} ({of[1]})", f"{value:.6g}") for name, value in sorted(of[0].items())]
    lines += _table(("accountant", "epsilon"), by)
    return [*lines, f"to publish: {_to_publish(i)}"]


def _to_publish(i: Inspection) -> str:
    assert i.card.privacy is not None
    known = i.claim_problems or empty_promise(i.card.privacy.epsilon)
    if i.rederived is None and not known:
        return f"nothing before the claim is derived again: ddaudit inspect {i.path}"
    return statement(i.card.privacy, i.claim_problems)


def statement(claim: PrivacyClaim, problems: Sequence[str] = ()) -> str:
    """The claim as a sentence that can be published with the set: which of the printed numbers counts, and what for.

    Args:
        problems: why it does not hold; nothing can be published then.
    """
    if problems:
        why = "; ".join(p.rstrip(".") for p in problems)
        return f"Nothing: the claim does not hold ({why})."
    public = "; ".join(claim.public) or "nothing is stated"
    unit = claim.unit or "one record of the training data"
    if empty_promise(claim.epsilon):
        return f"Nothing: an epsilon of {claim.epsilon:.4g} is no privacy statement."
    return (
        f"This set is ({claim.epsilon:.4g}, {claim.delta:g})-differentially private under {claim.relation} of "
        f"{unit}{given(claim)}, by the {claim.accountant} accountant; the other epsilons cross-check this one. "
        f"Treated as public: {public}. It is one release: whatever else is made from the same records adds to it."
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Aligned columns: the first to the left, numbers to the right."""
    widths = [max(len(row[k]) for row in (head, *rows)) for k in range(len(head))]
    return [
        "  "
        + "  ".join(
            f"{cell:<{w}}" if k == 0 else f"{cell:>{w}}"
            for k, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in (head, *rows)
    ]


def pixels_outside(distilled: DistilledSet) -> str:
    """A sentence on values that no pixel has; "" where there are none, or values are no pixels."""
    return _beyond(distilled, _share_outside(distilled))


def _share_outside(distilled: DistilledSet) -> float:
    """Fraction of values outside [0, 1]; 0 where values are no pixels."""
    images = distilled.images
    if distilled.card.space != "pixels":
        return 0.0
    return float(((images < 0) | (images > 1)).double().mean())


def _beyond(distilled: DistilledSet, outside: float) -> str:
    if outside == 0:
        return ""
    low, high = distilled.pixel_range()
    text = f"{outside:.1%} of pixel values lie outside [0, 1] (from {low:.3g} to {high:.3g})"
    return (
        f"{text}; were the images un-normalised with the right mean and std?"
        if outside > 0.5
        else text
    )


def _warnings(distilled: DistilledSet, *, outside: float, others: list[str]) -> list[str]:
    card, found = distilled.card, []
    if beyond := _beyond(distilled, outside):
        found.append(beyond)
    found += content_warnings(distilled)
    if card.mean is None or card.std is None:
        found.append("the card gives no normalisation (mean, std); audits use that of --data")
    if card.data is None:
        found.append("the card does not say which data it was distilled from")
    if card.method == "unknown":
        found.append("the card does not say how it was made")
    if card.privacy and (warning := empty_promise(card.privacy.epsilon)):
        found.append(warning)
    if others:
        found.append(f"further tensors, not read: {', '.join(others)}")
    return found


def content_warnings(distilled: DistilledSet) -> list[str]:
    """What a reader of any number measured on a set should know of its content: real records in it, images that stand
    there twice, classes without images, values of another scale."""
    card, found = distilled.card, []
    counts = torch.bincount(distilled.hard_labels, minlength=distilled.num_classes).tolist()
    copies = len(distilled) - len({image.numpy().tobytes() for image in distilled.images})
    low, high = distilled.pixel_range()
    if card.space == "pixels" and 0 <= low < high <= _TWICE:
        found.append(f"no pixel is above {high:.2g}: were they divided by 255 twice?")
    if max(-low, high) > _FAR_OUT:
        found.append(f"values reach {max(-low, high):.3g}: distillation probably diverged")
    if low == high and (card.space != "pixels" or 0 <= low <= 1):
        found.append("all pixels have one value")
    elif copies:
        found.append(
            f"{copies} of {len(distilled)} images are copies of others in the set: "
            f"{len(distilled) - copies} are unique"
        )
    empty = sum(count == 0 for count in counts)
    if empty:
        from_one = empty == 1 and counts[0] == 0
        found.append(
            f"{empty} of {len(counts)} classes {'has' if empty == 1 else 'have'} no image"
            + (", the first one: do labels count from 1?" if from_one else "")
        )
    if card.ipc is not None:
        short = sum(count < card.ipc for count in counts)
        if short:
            found.append(
                f"{short} of {len(counts)} classes have fewer than the {card.ipc} images per class "
                "that the card promises"
            )
    if card.member_indices:
        found.append(
            f"releases real records verbatim ({len(set(card.member_indices))} training images)"
        )
    elif card.contains_real_pixels:
        found.append("releases pieces of real records verbatim (crops or patches)")
    return found


def claim_problems(card: Card) -> list[str]:
    """Why the privacy claim on a card does not hold whatever its ledger says; empty without a claim.

    What the ledger adds up to, ``ddaudit inspect`` and every report ask; what the card says of that, nobody.
    """
    claim, found = card.privacy, list[str]()
    if claim is None:
        return found
    if card.shows_records:
        found.append("claims privacy and releases real records: the claim cannot hold")
    if claim.noise_seed_published:
        found.append(
            "the seed of the privacy noise is published: whoever knows it can remove the noise, so "
            "the claim is void"
        )
    return found


def _size(count: int) -> str:
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count = count / 1000 if unit != "MB" else count  # type: ignore[assignment]
    return f"{count / 1000:.3g} GB"


def _values(i: Inspection) -> tuple[str, str]:
    """The line on the values' range, by what they are."""
    span = f"{i.pixel_min:.4g} to {i.pixel_max:.4g}"
    if i.card.space == "pixels":
        return "pixels", f"{span}, {_outside(i.pixel_outside)}"
    return "values", f"{span}, {i.card.modality}, standardised"


def _outside(fraction: float) -> str:
    return "all in [0, 1]" if fraction == 0 else f"{fraction:.1%} outside [0, 1]"


def _per_class(counts: list[int]) -> str:
    low, high = min(counts), max(counts)
    if low == high:
        return f"{low} image{'s' * (low != 1)} each"
    return f"{low} to {high} images each"


def _recipe(value: dict[str, Any] | None) -> str:
    return "" if value is None else json.dumps(value, sort_keys=True, default=str)


def _text(value: int | None) -> str:
    return "" if value is None else str(value)


def _bracket(value: str | None) -> str:
    return "" if value is None else f"(fingerprint {value})"
