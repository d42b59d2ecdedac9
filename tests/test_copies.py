"""No stretch of code stands twice: what is needed in two places is one part, with a field where they differ."""

from __future__ import annotations

import ast
import io
import tokenize
from collections.abc import Iterable, Mapping
from pathlib import Path

ROOT = Path(__file__).parent.parent
ROOTS = ("ddaudit", "attacks", "defenses", "reports", "benchmarks")
LONGEST = 12
"""Equal lines in a row that are allowed, blank lines, comments, docstrings and imports not counted."""


def copies(sources: Mapping[str, str], longest: int = LONGEST) -> list[str]:
    """Every stretch of more than ``longest`` equal lines, as "FILE:LINE and FILE:LINE: N equal lines".

    Args:
        sources: file name -> its text.
    """
    window = longest + 1
    lines = {name: code_lines(text) for name, text in sources.items()}
    first: dict[tuple[str, ...], tuple[str, int]] = {}
    found: list[str] = []
    for name, rows in lines.items():
        covered = 0
        for at in range(len(rows) - window + 1):
            key = tuple(text for _, text in rows[at : at + window])
            other, start = first.setdefault(key, (name, at))
            apart = other != name or start + window <= at
            if not apart or at < covered:
                continue
            there = lines[other]
            length = window
            while (
                at + length < len(rows)
                and start + length < (at if other == name else len(there))
                and rows[at + length][1] == there[start + length][1]
            ):
                length += 1
            found.append(
                f"{other}:{there[start][0]} and {name}:{rows[at][0]}: {length} equal lines"
            )
            covered = at + length
    return found


def code_lines(text: str) -> list[tuple[int, str]]:
    """(line number, its tokens) of every line that is code: no comment, docstring, import or blank line."""
    left_out = _docstrings_and_imports(ast.parse(text))
    rows: dict[int, list[str]] = {}
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type in _NO_CODE or token.start[0] in left_out:
            continue
        for offset, part in enumerate(token.string.splitlines()):
            rows.setdefault(token.start[0] + offset, []).append(part)
    return [(number, " ".join(parts)) for number, parts in sorted(rows.items())]


_NO_CODE = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
}


def _docstrings_and_imports(tree: ast.Module) -> set[int]:
    lines: set[int] = set()
    for node in ast.walk(tree):
        text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if text or isinstance(node, ast.Import | ast.ImportFrom):
            assert node.end_lineno is not None
            lines |= set(range(node.lineno, node.end_lineno + 1))
    return lines


def _package() -> dict[str, str]:
    files: Iterable[Path] = (f for root in ROOTS for f in sorted((ROOT / root).rglob("*.py")))
    return {str(f.relative_to(ROOT)): f.read_text(encoding="utf-8") for f in files}


def test_no_block_of_more_than_twelve_equal_lines_stands_twice():
    found = copies(_package())
    assert not found, "\n".join(found)


def test_a_copied_block_is_named_with_both_places():
    body = "\n".join(f"    x{i} = f({i})" for i in range(13))
    sources = {
        "a.py": f'"""One."""\n\n\ndef one():\n{body}\n',
        "b.py": f"import os\n\ny = 1\n\n\ndef two():\n    # why\n{body.replace('(', '( ')}\n    return y\n",
    }
    assert copies(sources) == ["a.py:5 and b.py:8: 13 equal lines"]


def test_twelve_equal_lines_may_stand_twice():
    body = "\n".join(f"    x{i} = f({i})" for i in range(12))
    assert not copies({"a.py": f"def one():\n{body}\n", "b.py": f"def two():\n{body}\n"})


def test_comments_docstrings_and_imports_do_not_count():
    text = '"""A\nlong\ndocstring."""\n' + "".join(f"import a{i}\n# {i}\n" for i in range(20))
    assert not copies({"a.py": text, "b.py": text})


def test_a_block_that_stands_twice_in_one_file_is_found():
    body = "\n".join(f"    x{i} = f({i})" for i in range(13))
    text = f"def one():\n{body}\n\n\ndef two():\n{body}\n"
    assert copies({"a.py": text}) == ["a.py:2 and a.py:18: 13 equal lines"]


def test_a_copy_of_a_file_of_the_package_is_found():
    text = (ROOT / "ddaudit/distillation/matching.py").read_text(encoding="utf-8")
    found = copies({"matching.py": text, "planted.py": f"x = 1\n{text}"})
    assert len(found) == 1
    assert "matching.py:" in found[0]
    assert "planted.py:" in found[0]
