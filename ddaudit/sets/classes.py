"""Putting a set's classes into a data set's order: equal names mean equal classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from ddaudit.data.classes import match_names, number_of, places
from ddaudit.errors import BadInput
from ddaudit.sets._types import DistilledSet

BY_NAME = "classes were put into the data set's order by name"
BY_POSITION = "class names differ from the data set's; classes were matched by position"


def match_classes(value: DistilledSet, names: Sequence[str], *, where: object) -> DistilledSet:
    """The set with labels that count classes as the data do; a note on its card says what was done.

    A set without class names is left alone: its labels are positions. So is one whose names differ from the data's
    (``T-shirt`` for ``T-shirt/top``, numbers for words), unless its order is that of the alphabet.

    Raises:
        BadInput: names of which some fit, at other positions, and some do not; words in alphabetical order that do not
            fit; or another number of classes than the data's.
    """
    own = value.card.class_names
    alphabetical = value.card.names_sorted
    if own is None or (list(own) == list(names) and not alphabetical):
        return value
    try:
        found = match_names(own, names)
    except ValueError as error:
        todo = (
            "Rename the classes alike, or leave the names out of the file so that positions count."
        )
        raise BadInput(where, f"names classes that do not fit the data's: {error}", todo) from None
    if found is None and len(own) != len(names):
        what = f"holds {len(own)} classes, the data {len(names)}, and their names do not fit"
        raise BadInput(where, what, "Was this set distilled from other data? Pass --data.")
    if found is None and alphabetical and any(number_of(name) is None for name in own):
        strange = [name for name, at in zip(own, places(own, names), strict=True) if at is None]
        what = f"has classes in alphabetical order that the data do not name: {_some(strange)}"
        todo = f"Rename them as the data's classes are ({_some(names)}), or number them 0, 1, ..."
        raise BadInput(where, what, todo)
    moved = found is not None and found != list(range(len(own)))
    notes = [BY_NAME] if moved else [BY_POSITION] if found is None else []
    target = torch.tensor(found if found is not None else range(len(own)))
    labels = value.labels
    if value.soft:
        labels = labels.new_zeros(len(labels), len(names))
        labels[:, target] = value.labels
    else:
        labels = target[labels]
    poison = value.card.poison
    if poison is not None:
        source = poison.source_class
        moved_to = {"target": int(target[poison.target])}
        moved_to |= {} if source is None else {"source_class": int(target[source])}
        poison = poison.model_copy(update=moved_to)
    card = value.card.model_copy(
        update={
            "class_names": list(names),
            "names_sorted": False,
            "notes": [*value.card.notes, *notes],
            "poison": poison,
        }
    )
    store = value.store
    if store is not None:
        if len(own) != len(names):
            what = f"has a label store of {len(own)} classes, the data have {len(names)}"
            raise BadInput(where, what)
        logits = torch.empty_like(store.logits)
        logits[..., target] = store.logits
        store = replace(store, logits=logits)
    return replace(value, labels=labels, num_classes=len(names), card=card, store=store)


def _some(names: Sequence[str]) -> str:
    return ", ".join(f"'{name}'" for name in names[:3]) + ", ..." * (len(names) > 3)
