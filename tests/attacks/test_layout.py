"""A reader of one question enters one folder of attacks/, and what all folders share."""

from __future__ import annotations

import ast
from pathlib import Path

import ddaudit.attacks

ROOT = Path(ddaudit.attacks.__file__).parent
HOME = "ddaudit.attacks."


def imported(file: Path) -> set[str]:
    """Folders of attacks/ that a file imports from."""
    names: list[str] = []
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names += [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
    return {name.removeprefix(HOME).split(".")[0] for name in names if name.startswith(HOME)}


def test_no_file_is_entered_for_more_than_one_question() -> None:
    files = {file: file.relative_to(ROOT).parts[0] for file in ROOT.glob("*/**/*.py")}
    assert len(set(files.values())) >= 8
    strays = {
        f"{file.relative_to(ROOT)} imports {other}"
        for file, own in files.items()
        for other in imported(file) - {own, "_common"}
    }
    assert not strays


def test_what_is_shared_is_shared() -> None:
    users: dict[str, set[str]] = {}
    for file in ROOT.glob("*/**/*.py"):
        own = file.relative_to(ROOT).parts[0]
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module == f"{HOME}_common":
                parts = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith(
                f"{HOME}_common."
            ):
                parts = [(node.module or "").rsplit(".", 1)[1]]
            else:
                continue
            for part in parts:
                users.setdefault(part, set()).add(own)
    alone = {f.stem: users.get(f.stem) for f in ROOT.glob("_common/[a-z]*.py")}
    assert all(who and len(who - {"_common"}) > 1 for who in alone.values()), alone


def test_no_class_name_stands_twice() -> None:
    seen: dict[str, list[str]] = {}
    for file in ROOT.glob("**/*.py"):
        for node in ast.parse(file.read_text()).body:
            if isinstance(node, ast.ClassDef):
                seen.setdefault(node.name, []).append(str(file.relative_to(ROOT)))
    assert not {name: files for name, files in seen.items() if len(files) > 1}
