"""A wheel holds every file of the source tree, under its installed name, and one version."""

import runpy
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

import pytest

import ddaudit

tomllib = pytest.importorskip("tomllib")  # Python 3.11

ROOT = Path(__file__).parents[1]
MOVED = ("attacks", "defenses", "reports")


@pytest.fixture(scope="module")
def packages() -> list[str]:
    """What setup.py hands to setuptools."""
    given = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        patch.setattr("setuptools.setup", lambda **options: given.update(options))
        runpy.run_path(str(ROOT / "setup.py"))
    return given["packages"]


def files() -> list[Path]:
    """Every file that a wheel should hold, relative to the root."""
    found = [f for top in ("ddaudit", *MOVED) for f in (ROOT / top).rglob("*") if f.is_file()]
    return [f.relative_to(ROOT) for f in found if "__pycache__" not in f.parts]


def package_of(folder: Path) -> str:
    name = ".".join(folder.parts)
    return f"ddaudit.{name}" if folder.parts[0] in MOVED else name


def test_every_folder_with_code_is_a_package_of_the_wheel(packages):
    assert sorted(packages) == sorted({package_of(f.parent) for f in files() if f.suffix == ".py"})


def test_every_other_file_is_package_data():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    for file in files():
        if file.suffix not in (".py", ".pyc"):
            patterns = settings["package-data"].get(package_of(file.parent), [])
            assert any(fnmatch(file.name, p) for p in patterns), file
    assert settings["package-dir"] == {
        "ddaudit": "ddaudit",
        **{f"ddaudit.{top}": top for top in MOVED},
    }


def test_there_is_one_version():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert "version" in project["dynamic"]
    assert f"\nversion: {ddaudit.__version__}\n" in (ROOT / "CITATION.cff").read_text()


HEAVY = """
import sys, ddaudit.audits, ddaudit.reports
from ddaudit.auditing import AUDITORS
from ddaudit.distillation import METHODS
list(AUDITORS.items()), list(METHODS.items())
heavy = "pyarrow dp_accounting torchattacks torchmetrics opacus fairlearn sklearn matplotlib pandas".split()
print(*set(heavy) & set(sys.modules))
"""


def test_heavy_libraries_are_imported_where_they_are_used():
    done = subprocess.run([sys.executable, "-c", HEAVY], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
