"""Every code block of README.md, docs/ and docs/auditors/ runs: Python as it stands, ddaudit commands at small sizes.

A comment above a block (readers do not see it) says what is special:

    <!-- file: policy.yaml -->             the block is a file that the other blocks find
    <!-- first: ddaudit audit ... -->      run before the block, at small sizes
    <!-- not run: a synopsis -->           and why not
    <!-- needs: data -->                   needs real data; skipped where there are none

The code cells of a notebook in examples/ are one block.

An ``audit`` is planned exactly as printed (``--dry-run``), so that every name and option holds, and then run small.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENTS = [
    ROOT / "README.md",
    *(
        page
        for folder in ("", "auditors")
        for page in sorted((ROOT / "docs" / folder).glob("*.md"))
    ),
]
NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))
MARKERS = ("file", "first", "not run", "needs")
SMALL = "--set loop.iterations=2 --set networks.width=8"
SMALLER = {
    "audit": f"{SMALL} --auditors utility --baselines random --ipc 1 --arch ConvNetD2W8 --jobs 1",
    "distill": SMALL,
}
BLOCK = re.compile(r"((?:^<!--[^\n]*-->\n)*)^```(\w*)\n(.*?)^```$", re.M | re.S)
MARKER = re.compile(r"<!-- ([a-z ]+): (.*?) -->")


@dataclass(frozen=True)
class Block:
    """A fenced block, what stands above it, and where it is."""

    where: str
    language: str
    text: str
    markers: tuple[tuple[str, str], ...]

    def marked(self, name: str) -> list[str]:
        return [value for marker, value in self.markers if marker == name]

    @property
    def document(self) -> str:
        return self.where.partition(":")[0]

    @property
    def steps(self) -> list[dict[str, Any]]:
        """What to run, in order; empty where the block is an example of something else."""
        if self.marked("not run") or self.marked("file"):
            return []
        first = [step for text in self.marked("first") for step in self._commands(text)]
        if self.language == "python":
            return [*first, self._step("python", self.text)]
        return [*first, *self._commands(self.text)]

    def _commands(self, text: str) -> list[dict[str, Any]]:
        lines = text.replace("\\\n", " ").splitlines()
        lines = [part.strip() for line in lines for part in line.split("&&")]
        steps = []
        for line in lines:
            words = shlex.split(line, comments=True)
            if words[:1] != ["ddaudit"]:
                continue
            command = shlex.join(words)
            if words[1] == "audit" and "--dry-run" not in words:
                steps.append(self._step("command", f"{command} --dry-run"))
            small = "" if "--dry-run" in words else SMALLER.get(words[1], "")
            if small and words[1] == "audit":
                command = shlex.join(_of_utility(words))
            allowed = [0, 1] if words[1] == "gate" else [0]
            steps.append(self._step("command", f"{command} {small}", allowed))
        return steps

    def _step(self, kind: str, text: str, allowed: list[int] | None = None) -> dict[str, Any]:
        folder = self.document
        return {
            "where": self.where,
            "folder": folder,
            "kind": kind,
            "text": text,
            "allowed": allowed or [0],
        }


def _of_utility(words: list[str]) -> list[str]:
    """A command without settings of other auditors, which are not asked here; its dry run has them."""
    pairs = zip(words, [*words[1:], ""], strict=True)
    foreign = {
        i
        for i, (word, value) in enumerate(pairs)
        if word == "--setting" and not value.startswith("utility.")
    }
    return [w for i, w in enumerate(words) if not {i, i - 1} & foreign]


def blocks() -> list[Block]:
    """Every fenced block of every document."""
    found = []
    for document in DOCUMENTS:
        text = document.read_text()
        for match in BLOCK.finditer(text):
            line = text[: match.end(1)].count("\n") + 1
            where = f"{document.relative_to(ROOT)}:{line}"
            found.append(Block(where, match[2], match[3], tuple(MARKER.findall(match[1]))))
    for notebook in NOTEBOOKS:
        cells = json.loads(notebook.read_text())["cells"]
        code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
        found.append(Block(f"{notebook.relative_to(ROOT)}:1", "python", "\n\n".join(code), ()))
    return found


def run(chosen: list[Block], folder: Path) -> list[dict[str, Any]]:
    """Run blocks in a folder; returns the steps that failed."""
    for document in {block.document for block in chosen}:
        (folder / document).mkdir(parents=True)
        for block in blocks():
            for name in block.marked("file"):
                (folder / document / name).write_text(block.text)
    steps = [step for block in chosen for step in block.steps]
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("run_steps.py"))],
        input=json.dumps(steps), cwd=folder, capture_output=True, text=True, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    results = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(results) == len(steps), done.stderr[-2000:]
    for result in results:
        print(f"{result['seconds']:>6} s  {result['where']}  {result['text'].splitlines()[0][:90]}")
    return [r for r in results if r["code"] not in r["allowed"]]


def report(failed: list[dict[str, Any]]) -> str:
    return "\n\n".join(f"{f['where']}: exit {f['code']}\n{f['text']}\n{f['said']}" for f in failed)


def test_blocks_run(tmp_path):
    failed = run([b for b in blocks() if not b.marked("needs")], tmp_path)
    assert not failed, report(failed)


@pytest.mark.realdata
@pytest.mark.parametrize("block", [b for b in blocks() if b.marked("needs")], ids=lambda b: b.where)
def test_blocks_with_real_data_run(block, tmp_path, data_root):
    failed = run([block], tmp_path)
    assert not failed, report(failed)


def test_markers_are_known_and_blocks_are_found():
    assert sum(bool(b.steps) for b in blocks()) >= 10
    for block in blocks():
        assert {name for name, _ in block.markers} <= set(MARKERS), block.where
        for reason in block.marked("not run"):
            assert len(reason) > 3, block.where


def test_notebooks_are_committed_without_outputs_and_linked_from_the_docs():
    assert len(NOTEBOOKS) >= 2
    tutorial = (ROOT / "docs/tutorial.md").read_text()
    for notebook in NOTEBOOKS:
        cells = json.loads(notebook.read_text())["cells"]
        assert not [c for c in cells if c.get("outputs") or c.get("execution_count")]
        assert f"](../examples/{notebook.name})" in tutorial


def test_a_block_that_fails_is_reported(tmp_path):
    """The test above can fail: a wrong option, an exception, a failed assertion."""
    wrong = [
        Block("a", "", "ddaudit list methodes  # typo\n", ()),
        Block("b", "python", "assert 1 + 1 == 3\n", ()),
        Block("c", "", "ddaudit audit dm --auditors utilty --dry-run\n", ()),
        Block("d", "python", "print('well')\n", ()),
    ]
    failed = run(wrong, tmp_path)
    assert [f["where"] for f in failed] == ["a", "b", "c"]
    assert "Did you mean utility" in failed[2]["said"]
