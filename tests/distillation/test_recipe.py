"""Recipes: resolving names, composing defenses, changing options, and what is refused before any work."""

import ast
import json
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from ddaudit.distillation import METHODS, Defense, recipes, resolve
from ddaudit.distillation.loops import Job
from ddaudit.distillation.networks import Fresh
from ddaudit.distillation.options import describe, option, replace_option
from ddaudit.errors import BadInput
from ddaudit.training import EvaluationProtocol


def job(data, **changes):
    everyone = torch.ones(1, len(data.train), dtype=torch.bool)
    return replace(Job(data.train, everyone, data, 1, 0, torch.device("cpu")), **changes)


def test_every_method_resolves_at_both_profiles_and_goes_on_a_card():
    for name in METHODS.names():
        for profile in ("paper", "small"):
            recipe = resolve(name, profile=profile)
            assert recipe.name == name
            card = json.loads(json.dumps(recipe.describe()))
            assert card["loop"]["part"] == type(recipe.loop).__name__
            assert not {"small", "deviations"} & card.keys()


def test_the_small_profile_is_the_recipe_with_its_small_numbers_and_says_so():
    for name in METHODS.names():
        paper, small = resolve(name), resolve(name, profile="small")
        for path, value in paper.small.items():
            assert option(small, path) == value, (name, path)
        told = [d.split(" = ")[0] for d in small.deviations if d not in paper.deviations]
        assert told == [p for p in paper.small if option(paper, p) != option(small, p)], name
        # Nothing else differs. Backwards, because some numbers bound those before them.
        back = replace(small, deviations=paper.deviations, name=paper.name)
        for path in reversed(paper.small):
            value = option(paper, path)
            back = replace_option(back, path, "none" if value is None else value, where=path)
        assert back == paper, name


def test_defenses_apply_in_their_order_whatever_order_they_are_named_in(monkeypatch):
    def noting(name, order):
        def apply(recipe):
            return replace(recipe, deviations=(*recipe.deviations, name))

        return Defense(name, "", "", apply, order=order)

    known = {n: noting(n, order) for n, order in (("late", 9), ("b", 1), ("a", 1))}
    monkeypatch.setattr("ddaudit.distillation.recipe.DEFENSES", SimpleNamespace(get=known.get))
    recipe = resolve("dm+late+b+a")
    assert recipe.name == "dm+a+b+late"
    assert recipe.deviations == (*resolve("dm").deviations, "a", "b", "late")
    with pytest.raises(BadInput, match="names 'a' more than once"):
        resolve("dm+a+late+a")


def test_options_are_typed_by_what_they_replace():
    recipe = resolve(
        "dm",
        options={
            "loop.iterations": "1_000",
            "loop.lr": "3",
            "loop.pool": "none",
            "networks.arch": "ConvNetD2",
            "normalise": "public",
        },
    )
    assert (recipe.loop.iterations, recipe.loop.lr, recipe.loop.pool) == (1000, 3.0, None)
    assert isinstance(recipe.loop.lr, float)
    assert (recipe.networks.arch, recipe.normalise) == ("ConvNetD2", "public")
    for path, value, message in (
        ("loop", "fast", "'loop' is a part, not a value"),
        ("loop.lr.size", "1", "no option 'size' in float"),
        ("speed", "1", "no option 'speed' in Recipe"),
        ("loop.lr", "-1", "loop.lr positive"),
        ("reader.per_class", "many", "is not a number"),
        ("loop.lr", "nan", "is not a finite number"),
        ("loop.lr", "-inf", "is not a finite number"),
        ("loop.lr", float("inf"), "is not a finite number"),
    ):
        with pytest.raises(BadInput, match=message):
            resolve("dm", options={path: value})
    with pytest.raises(BadInput, match="nonesuch"):
        resolve("nonesuch")
    with pytest.raises(BadInput, match="nonesuch"):
        resolve("dm+nonesuch")


@dataclass(frozen=True)
class Inner:
    size: int = 1


@dataclass(frozen=True)
class Outer:
    parts: tuple[Inner, ...] = (Inner(1), Inner(2))
    flag: bool = False


def test_parts_are_described_and_changed_wherever_they_stand():
    outer = Outer()
    assert describe(outer) == {
        "part": "Outer",
        "parts": [{"part": "Inner", "size": 1}, {"part": "Inner", "size": 2}],
        "flag": False,
    }
    changed = replace_option(outer, "parts.1.size", "5", where="test")
    assert changed == Outer((Inner(1), Inner(5)))
    assert replace_option(outer, "parts.inner.size", 7, where="test") == Outer((Inner(7), Inner(2)))
    assert (option(changed, "parts.1.size"), option(changed, "parts.2.size")) == (5, None)
    assert replace_option(outer, "flag", "yes", where="test").flag
    with pytest.raises(BadInput, match="is not true or false"):
        replace_option(outer, "flag", "maybe", where="test")


def test_a_private_recipe_refuses_every_way_around_its_ledger(tiny):
    private = resolve("ndpdc")
    private.check_private()
    bad = {
        "starts from real images": replace(private, synthesis=resolve("dm").synthesis),
        "normalises by constants": replace(private, normalise="data"),
        "batch normalisation": replace(private, networks=Fresh("ConvNetBN")),
        "lets a teacher read": replace(private, labels=resolve("dm+soft").labels),
        "trains networks on private records": replace(
            private, networks=resolve("dm-experts").networks
        ),
    }
    for message, recipe in bad.items():
        with pytest.raises(BadInput, match=message):
            recipe.check_private()
        replace(recipe, reader=resolve("dm").reader).check_private()  # fine without a claim


def test_missing_parts_are_named(tiny):
    dm = resolve("dm")
    for name in ("objective", "target", "synthesis", "networks", "reader"):
        with pytest.raises(BadInput, match="is no matching recipe"):
            replace(dm, **{name: None}).matching_parts()
    with pytest.raises(BadInput, match="lacks a target or a reader"):
        replace(dm, target=None).open(job(tiny))
    with pytest.raises(BadInput, match="lacks a synthesis"):
        replace(dm, synthesis=None).start(job(tiny), torch.Generator())


def test_normalisation_and_augmentation_are_the_datas_or_public(tiny):
    data = replace(tiny, augment="flip")
    plain, public = resolve("dm"), resolve("dm", options={"normalise": "public", "augment": ""})
    assert plain.normalisation(data) == (data.mean, data.std)
    assert public.normalisation(data) == ((0.5,) * 3, (0.5,) * 3)
    assert (plain.augment_for(data), public.augment_for(data)) == ("flip", "")
    mean, std = plain.constants(data)
    assert mean.shape == std.shape == (3, 1, 1)


def test_recipes_are_plain_values():
    assert resolve("dm") == resolve("dm")
    assert resolve("dm") != resolve("dm", options={"loop.lr": 2})


@pytest.mark.parametrize("name", METHODS.names())
def test_every_method_says_in_a_few_words_what_it_does_and_of_what_parts(name: str) -> None:
    recipe = METHODS.get(name)
    assert 3 <= len(recipe.purpose.split()) <= 12
    assert recipe.source
    assert recipe.parts()["loop"] == type(recipe.loop).__name__


def test_a_recipe_is_under_forty_lines_without_a_loop():
    """Its words (source, purpose, deviations) are not counted."""
    seen, words = 0, ("source", "purpose", "deviations")
    for file in Path(recipes.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            assert not isinstance(node, ast.For | ast.While), (file.name, node.lineno)
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "register":
                seen += 1
                told = [k.value for k in ast.walk(node) if getattr(k, "arg", None) in words]
                assert _lines(node) - sum(map(_lines, told)) < 40, (file.name, node.lineno)
    assert seen > 50


def _lines(node):
    return node.end_lineno - node.lineno + 1


@pytest.mark.parametrize("name", ["c2r+guard", "dc+guard+adversarial", "c2r+fair"])
def test_what_has_a_part_without_public_code_stays_a_reconstruction(name: str) -> None:
    assert resolve(name).status == "reconstruction"
    assert resolve(name, profile="small").status == "reconstruction"


def test_an_option_that_came_later_and_is_not_used_changes_nobody_s_identity():
    """What a run folder holds is found by what recipes say of themselves."""
    plain, even = resolve("full").describe(), resolve("full+balanced").describe()
    assert "even" not in plain["loop"]
    assert even["loop"]["even"] is True
    stated = resolve("mtt").describe()["protocol"]
    assert "adjust" not in stated
    card = resolve("mtt").protocol.to_card()
    assert "adjust" not in card
    assert EvaluationProtocol.from_card(card) == resolve("mtt").protocol
    adjusted = resolve("full+logit-adjusted").protocol
    assert adjusted.to_card()["adjust"] == 1.0
    assert EvaluationProtocol.from_card(adjusted.to_card()) == adjusted


@pytest.mark.parametrize(
    ("name", "epochs", "augmented"),
    [("dc", 300, False), ("dsa", 1000, True), ("dm", 1000, True), ("idm", 1000, True), ("cafe", 600, False)],
)  # fmt: skip
def test_the_dc_family_states_the_protocol_of_its_code(name: str, epochs: int, augmented: bool):
    """SGD 0.01, batches of 256: 300 epochs as the images are, 1000 with DSA; CAFE's code says 600 for 300."""
    stated = resolve(name, profile="small").protocol.for_data("color_crop")
    assert bool(stated.augment) == augmented
    assert (stated.epochs if augmented else stated.epochs_plain) == epochs
    assert (stated.lr, stated.batch_size, stated.optimiser) == (0.01, 256, "sgd")
