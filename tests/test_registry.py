"""Registries: lazy, right when the catalogue is not, unharmed by other people's plugins."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from ddaudit import catalogue
from ddaudit.catalogue import KINDS, Kind
from ddaudit.data import load_data
from ddaudit.distillation import resolve
from ddaudit.errors import BadInput
from ddaudit.registry import Registry, rows

HEAVY = "{'torch', 'sklearn', 'torchvision', 'pyarrow', 'opacus'} & set(sys.modules)"


def python(code: str) -> str:
    """What a fresh interpreter prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_the_committed_catalogue_says_what_the_code_says() -> None:
    held = catalogue.FILE.read_text(encoding="utf-8")
    assert catalogue.generate() == held, "run 'make catalogue' and commit catalogue.json"
    for kind in KINDS.values():
        assert catalogue.builtin(kind) is not None, kind
        assert catalogue.builtin(kind) or not kind.packages, kind


def test_listing_imports_nothing_heavy_and_asking_imports_one_module() -> None:
    listed = f"import sys; from ddaudit.registry import rows; [rows(k) for k in {list(KINDS)}]; print({HEAVY})"
    assert python(listed) == "set()"
    asked = (
        "import sys; from ddaudit.distillation import METHODS; before = {m for m in sys.modules if '.recipes.' in m}; "
        "METHODS.get('dm'); print(before, {m for m in sys.modules if '.recipes.' in m})"
    )
    assert python(asked) == "set() {'ddaudit.distillation.recipes.dm'}"


# ---- a registry of one's own, in a package that a test may edit ----------------------------------


class Thing:
    def __init__(self, name: str) -> None:
        self.name = name


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """(Kind, folder) of a package with two registering modules, and its catalogue."""
    folder = tmp_path / "zoo_under_test"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "home.py").write_text(
        "from ddaudit.registry import Registry\n"
        "from ddaudit.catalogue import Kind\n"
        "class Thing:\n    def __init__(self, name): self.name = name\n"
        "ZOO = Registry(Kind('animal', 'zoo_under_test.home:ZOO', ('zoo_under_test',), 'zoo_under_test.animals', "
        "'animals'), of=Thing, row=lambda t: {'name': t.name, 'description': 'an animal'})\n"
    )
    for name in ("ape", "bee"):
        (folder / f"{name}.py").write_text(module(name))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(catalogue, "FILE", tmp_path / "catalogue.json")
    kind = Kind(
        "animal",
        "zoo_under_test.home:ZOO",
        ("zoo_under_test",),
        "zoo_under_test.animals",
        "animals",
    )
    monkeypatch.setattr(catalogue, "KINDS", {"animal": kind})
    catalogue.FILE.write_text(catalogue.generate())
    forget()
    yield kind, folder
    forget()


def module(name: str, body: str = "") -> str:
    helper = "def helper():\n    return 1\n\n\n"
    return f"from zoo_under_test.home import ZOO, Thing\n\n\n{helper}ZOO.add('{name}', Thing('{name}'))\n{body}"


def forget() -> None:
    for name in [m for m in sys.modules if m.startswith("zoo_under_test")]:
        del sys.modules[name]
    importlib.invalidate_caches()


def zoo() -> Registry[Thing]:
    return importlib.import_module("zoo_under_test.home").ZOO


def imported() -> set[str]:
    return {m.rpartition(".")[2] for m in sys.modules if m.startswith("zoo_under_test.")}


def test_a_look_up_imports_the_module_that_registers_and_no_other(package) -> None:
    assert zoo().names() == ["ape", "bee"]
    assert [r["name"] for r in zoo().rows()] == ["ape", "bee"]
    assert imported() == {"home"}
    assert zoo().get("bee").name == "bee"
    assert imported() == {"home", "bee"}


@pytest.mark.parametrize(
    "edit",
    [
        lambda folder: (folder / "cow.py").write_text(module("cow")),
        lambda folder: (folder / "bee.py").write_text(module("cow")),
        lambda folder: (folder / "bee.py").write_text(
            module("bee", "if True:\n    ZOO.add('cow', Thing('cow'))\n")
        ),
    ],
)
def test_a_new_or_edited_module_is_found_although_the_catalogue_is_stale(package, edit) -> None:
    kind, folder = package
    edit(folder)
    forget()
    assert catalogue.builtin(kind) is None
    assert "cow" in zoo().names()
    assert zoo().get("cow").name == "cow"
    assert {"name": "cow", "description": "an animal"} in zoo().rows()


def test_a_module_that_is_gone_is_not_listed_and_a_damaged_catalogue_is_not_believed(
    package,
) -> None:
    kind, folder = package
    (folder / "bee.py").unlink()
    forget()
    assert zoo().names() == ["ape"]
    for damage in ("{", "[]", json.dumps({"zoo_under_test.ape": {}})):
        catalogue.FILE.write_text(damage)
        assert catalogue.builtin(kind) is None
    catalogue.FILE.unlink()
    forget()
    assert zoo().get("ape").name == "ape"


def test_a_catalogue_that_names_the_wrong_module_costs_time_not_the_answer(package) -> None:
    _, folder = package
    held = json.loads(catalogue.FILE.read_text())
    ape, bee = (held[f"zoo_under_test.{n}"]["registers"] for n in ("ape", "bee"))
    ape["animal"], bee["animal"] = bee["animal"], ape["animal"]
    catalogue.FILE.write_text(json.dumps(held))
    assert zoo().get("ape").name == "ape"
    assert folder.exists()


def test_functions_imports_and_comments_leave_the_catalogue_current(package) -> None:
    kind, folder = package
    text = (folder / "bee.py").read_text().replace("return 1", "return 2")
    (folder / "bee.py").write_text(
        f"# a word\nimport os\n{text}\n\ndef more(\n    a,\n):\n    pass\n"
    )
    assert catalogue.builtin(kind) is not None


def test_a_registration_out_of_sight_stops_the_catalogue(package) -> None:
    _, folder = package
    (folder / "cow.py").write_text(
        "from zoo_under_test import home\n\n\ndef put():\n    home.ZOO.add('cow', home.Thing('cow'))\n\n\nput()\n"
    )
    forget()
    with pytest.raises(RuntimeError, match=r"zoo_under_test\.cow registers the animal 'cow'"):
        catalogue.generate()


def test_names_registered_in_this_process_are_seen_and_taken_ones_refused(package) -> None:
    first = Thing("cat")
    zoo().add("cat", first)
    zoo().add("cat", Thing("cat"))  # a notebook cell that runs twice
    assert zoo().get("cat") is not first
    assert zoo().names() == ["ape", "bee", "cat"]
    assert zoo().owners() == {"cat": __name__}
    with pytest.raises(BadInput, match=r"registered by zoo_under_test\.ape already"):
        zoo().add("ape", Thing("ape"))
    assert "ape" not in {m for m in imported() if m != "home"}


def test_an_unknown_name_is_answered_with_close_ones(package) -> None:
    with pytest.raises(BadInput, match=r"unknown animal\. Did you mean bee"):
        zoo().get("beee")
    with pytest.raises(BadInput, match="Known: ape, bee"):
        zoo().get("xyzzy")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", r"recipe '': is no name\. A recipe is METHOD or METHOD\+DEFENSE, such as dm"),
        ("+fair", r"^\+fair: names a defense without the method that it goes with"),
        ("dm+", r"^dm\+: names no defense after a '\+'"),
        ("dm++fair", r"^dm\+\+fair: names no defense after a '\+'"),
        ("fair", r"^fair: is a defense, and stands where a method is expected"),
        ("dm+random", r"^random: is a method, and stands where a defense is expected"),
        ("DM", r"^DM: unknown method\. Did you mean dm\?"),
        ("xyzzy", r"^xyzzy: unknown method\. See 'ddaudit list methods'\.$"),  # not 70 names
    ],
)
def test_names_that_are_no_recipe_are_answered_in_a_line(text: str, line: str) -> None:
    with pytest.raises(BadInput, match=line):
        resolve(text)


def test_a_place_in_the_place_of_a_data_set_is_answered_with_what_reads_it(tmp_path: Path) -> None:
    table = tmp_path / "loans.csv"
    table.write_text("a,b\n")
    with pytest.raises(BadInput, match=f"image-folder:path={tmp_path} or parquet:path={tmp_path}"):
        load_data(str(tmp_path))
    with pytest.raises(BadInput, match=f"csv:path={table},target=COLUMN"):
        load_data(str(table))


# ---- plugins -------------------------------------------------------------------------------------


def distribution(root: Path, name: str, points: dict[str, str], **modules: str) -> None:
    """An installed package with entry points for the group of the test's registry."""
    info = root / f"{name.replace('-', '_')}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    lines = [f"{k} = {v}" for k, v in points.items()]
    (info / "entry_points.txt").write_text("\n".join(["[zoo_under_test.animals]", *lines, ""]))
    for module_name, text in modules.items():
        (root / f"zoo_under_test_{module_name}.py").write_text(text)


@pytest.fixture
def plugins(package, tmp_path: Path):
    """Four other packages: a good one, one that fails, one that takes names, one that registers by itself."""
    good = (
        "from zoo_under_test.home import Thing\nword = 'no animal'\n"
        "dog, ape, owl = Thing('dog'), Thing('another ape'), Thing('owl')\n"
    )
    point = "zoo_under_test_good"
    distribution(tmp_path, "good-zoo", {"dog": f"{point}:dog", "owl": f"{point}:owl"}, good=good)
    distribution(tmp_path, "loud-zoo", {"ape": f"{point}:ape", "owl": f"{point}:owl"})
    distribution(
        tmp_path,
        "broken-zoo",
        {"eel": "zoo_under_test_bad", "elk": f"{point}:word", "fox": "zoo_under_test_exit"},
        bad="raise OSError('no GPU\\nhere')",
        exit="import sys; sys.exit(1)",
    )
    distribution(
        tmp_path,
        "self-zoo",
        {"gnu": "zoo_under_test_self", "bee": "zoo_under_test_self:Bee"},
        self="from zoo_under_test.home import ZOO, Thing\nZOO.add('gnu', Thing('gnu'))\n"
        "ZOO.add('bee', Thing('their bee'))\nclass Bee(Thing):\n    def __init__(self): pass\n",
    )
    importlib.invalidate_caches()
    return zoo()


def test_a_plugin_is_known_by_its_name_and_with_its_package(plugins) -> None:
    assert plugins.get("dog") is plugins.get("good-zoo/dog")
    assert plugins.get("gnu").name == "gnu"
    row = next(r for r in plugins.rows() if r["name"] == "dog")
    assert row == {"name": "dog", "description": "an animal", "plugin": "good-zoo"}


def test_a_broken_plugin_is_named_and_stops_nobody_else(plugins) -> None:
    assert plugins.get("ape").name == "ape"
    assert set(plugins.problems()) == {"broken-zoo/eel", "broken-zoo/elk", "broken-zoo/fox"}
    for name, why in (
        ("eel", "OSError: no GPU here"),
        ("elk", "is no Thing"),
        ("fox", "SystemExit"),
    ):
        for asked in (name, f"broken-zoo/{name}"):
            with pytest.raises(BadInput, match=f"{why}.*Mend or remove the package broken-zoo"):
                plugins.get(asked)
    assert not {"eel", "elk", "fox"} & set(plugins.names())
    row = next(r for r in plugins.rows() if r["name"] == "eel")
    assert (row["problem"], row["plugin"]) == ("OSError: no GPU here", "broken-zoo")


def test_a_plugin_that_takes_a_name_is_refused_in_the_open(plugins) -> None:
    assert plugins.get("ape").name == "ape"
    assert plugins.get("loud-zoo/ape").name == "another ape"
    assert plugins.get("self-zoo/bee").name == "their bee"
    assert plugins.get("bee").name == "bee"
    row = next(r for r in plugins.rows() if r["name"] == "loud-zoo/ape")
    assert row["problem"] == "the name 'ape' is taken"


def test_two_plugins_of_one_name_must_be_asked_for_in_full(plugins) -> None:
    with pytest.raises(
        BadInput, match=r"claimed by good-zoo, loud-zoo\. Use good-zoo/owl or loud-zoo/owl"
    ):
        plugins.get("owl")
    assert plugins.get("good-zoo/owl").name == "owl"
    assert {"good-zoo/owl", "loud-zoo/owl"} <= set(plugins.names())


def test_every_kind_has_rows_with_name_and_description() -> None:
    for kind in (k for k, v in KINDS.items() if v.packages):
        found = rows(kind)
        assert found
        assert [r["name"] for r in found] == sorted(r["name"] for r in found)
        assert all(r["description"] for r in found)
