"""Files of the Hugging Face Hub: ``hub:owner/name[@revision][/FILE]`` is pulled into its cache; a set is pushed to it.

Only repositories of data sets. What is pulled is held against the size and the digest that the Hub states for the
commit, and nothing is fetched that ddaudit would not open. A file that is pulled once is read from the cache from
then on wherever its commit is named.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from ddaudit.errors import BadInput
from ddaudit.files import afford, read_bytes

SET_FILE = "set.safetensors"
"""How a set that is pushed is called there: one set a repository, so that its name is enough."""
READABLE = (
    ".safetensors", ".parquet", ".npz", ".pt", ".pth",
    ".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff",
)  # fmt: skip
"""Files that some format reads; of PyTorch's only what the restricted loader takes."""

_PLACE = re.compile(
    r"hub:(?P<repo>[\w.-]+/[\w.-]+?)(?:@(?P<revision>[^/@#]+))?(?:/(?P<file>[^@#]+))?", re.ASCII
)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_KINDS = {
    "RepositoryNotFoundError": "there is no such data set on the Hub, or you may not see it",
    "GatedRepoError": "you may not see it",
    "RevisionNotFoundError": "it has no such revision",
}
"""Errors of the library by their name -> what is wrong."""

T = TypeVar("T")


@dataclass(frozen=True)
class Place:
    """A repository, and perhaps a revision and a file of it.

    Attributes:
        repo: ``owner/name``.
        revision: a branch, tag or commit; empty: the newest.
        file: path in the repository; empty: the only set there.
    """

    repo: str
    revision: str = ""
    file: str = ""

    def __str__(self) -> str:
        marked = (("hub:", self.repo), ("@", self.revision), ("/", self.file))
        return "".join(mark + part for mark, part in marked if part)


def is_hub(text: object) -> bool:
    """True where a subject or a file is named by its place on the Hub."""
    return isinstance(text, str | Path) and str(text).startswith("hub:")


def parse(text: object) -> Place:
    """A place as the user wrote it.

    Raises:
        BadInput: not of that form.
    """
    matched = _PLACE.fullmatch(str(text))
    if matched is None:
        raise BadInput(text, "names no place on the Hub", "Write hub:owner/name[@revision][/FILE].")
    return Place(**{name: part or "" for name, part in matched.groupdict().items()})


def pin(text: str) -> str:
    """The place with the commit that it stands for now and the file that is meant; the file is in the cache then.

    Raises:
        BadInput: see :func:`pull`.
    """
    return str(_pulled(text)[0])


def local(path: str | Path) -> Path:
    """A file on this machine: of a place on the Hub the one in the cache, any other path as it is.

    Raises:
        BadInput: see :func:`pull`.
    """
    return pull(path) if is_hub(path) else Path(path)


def pull(text: object) -> Path:
    """The file in the cache; fetched where it is not there.

    Raises:
        BadInput: no such place or file, none that ddaudit opens, over the budget, another content than the Hub states,
            or the library is missing.
    """
    return _pulled(text)[1]


def pull_all(text: object) -> Path:
    """The folder in the cache with every file of a place that ddaudit opens, or the only such file.

    Raises:
        BadInput: see :func:`pull`.
    """
    place = parse(text)
    if place.file:
        return pull(text)
    info = _info(place, text)
    files = [f for f in info.siblings or [] if f.rfilename.lower().endswith(READABLE)]
    if not files:
        raise BadInput(text, "holds no file that ddaudit opens", f"It opens {', '.join(READABLE)}.")
    afford(text, sum(f.size or 0 for f in files), "files")
    paths = [_fetched(place.repo, f, info.sha, text) for f in files]
    return paths[0] if len(paths) == 1 else paths[0].parents[files[0].rfilename.count("/")]


def push(content: bytes, text: object, *, card: str, public: bool) -> str:
    """Publish a set file with its card, in one commit; a repository that is not there is made.

    Args:
        content: of the set file, which is called ``SET_FILE`` there.
        card: the repository's README.
        public: for all to see. False makes a private repository, and refuses a public one.

    Returns:
        Where it is: the place with its commit.

    Raises:
        BadInput: no such owner or no right to write, a public repository, or the Hub states another digest afterwards.
    """
    place = parse(text)
    if place.revision or place.file:
        raise BadInput(text, "names a revision or a file", f"A set goes to hub:{place.repo}.")
    library = _library(text)
    api, kind = library.HfApi(), "dataset"
    _asked(
        text,
        lambda: api.create_repo(place.repo, repo_type=kind, private=not public, exist_ok=True),
    )
    if not public and not _info(place, text).private:
        raise BadInput(text, "is public already", "Pass --public to publish the set there.")
    parts = {SET_FILE: content, "README.md": card.encode()}
    made = _asked(
        text,
        lambda: api.create_commit(
            place.repo,
            [library.CommitOperationAdd(name, part) for name, part in parts.items()],
            commit_message="A distilled set and its card",
            repo_type=kind,
        ),
    )
    there = replace(place, revision=made.oid)
    stated = next((f for f in _info(there, text).siblings if f.rfilename == SET_FILE), None)
    _check_digest(content, stated, text)
    return str(there)


def _pulled(text: object) -> tuple[Place, Path]:
    """The pinned place, and its file in the cache."""
    place = parse(text)
    if place.file and not place.file.lower().endswith(READABLE):
        raise BadInput(text, "is of no kind that ddaudit opens", f"It opens {', '.join(READABLE)}.")
    if _COMMIT.fullmatch(place.revision):
        file = place.file or SET_FILE
        cached = _library(text).try_to_load_from_cache(
            place.repo, file, revision=place.revision, repo_type="dataset"
        )
        if isinstance(cached, str):
            return replace(place, file=file), Path(cached)
    info = _info(place, text)
    files = {f.rfilename: f for f in info.siblings or []}
    file = place.file or _only_set(list(files), text)
    if file not in files:
        raise BadInput(text, f"holds no file {file}", f"It holds: {', '.join(sorted(files)[:20])}.")
    path = _fetched(place.repo, files[file], info.sha, text)
    return replace(place, revision=info.sha, file=file), path


def _only_set(files: list[str], text: object) -> str:
    sets = sorted(f for f in files if f.lower().endswith(".safetensors"))
    if SET_FILE in sets or len(sets) == 1:
        return SET_FILE if SET_FILE in sets else sets[0]
    if sets:
        raise BadInput(text, f"holds {len(sets)} sets", f"Name one: hub:owner/name/{sets[0]}.")
    if any(f.lower().endswith(READABLE) for f in files):
        todo = f"First: ddaudit import {text} --data NAME --out set.safetensors"
        raise BadInput(text, "holds no set file", todo)
    raise BadInput(text, "holds no file that ddaudit opens", f"It opens {', '.join(READABLE)}.")


def _info(place: Place, text: object) -> Any:
    """What the Hub says of a revision: ``sha``, ``private`` and, per file, its name, size and digest."""
    api = _library(text).HfApi()
    return _asked(
        text,
        lambda: api.dataset_info(
            place.repo, revision=place.revision or None, files_metadata=True, timeout=60
        ),
    )


def _fetched(repo: str, stated: Any, commit: str, text: object) -> Path:
    """One file of a commit in the cache, with the size and the content that the Hub states."""
    afford(text, stated.size or 0, "data")
    api = _library(text).HfApi()
    path = Path(
        _asked(
            text,
            lambda: api.hf_hub_download(
                repo, stated.rfilename, repo_type="dataset", revision=commit
            ),
        )
    )
    try:
        _check_digest(read_bytes(path), stated, text)
    except BadInput as error:
        raise BadInput(error.where, error.what, f"Remove {path} and try again.") from None
    return path


def _check_digest(content: bytes, stated: Any, text: object) -> None:
    """Raises BadInput unless the content is what the Hub states of it: SHA-256, or git's hash of small files."""
    lfs = getattr(stated, "lfs", None)
    want = lfs.sha256 if lfs is not None else getattr(stated, "blob_id", None)
    if lfs is not None:
        found = hashlib.sha256(content).hexdigest()
    else:
        head = b"blob %d\0" % len(content)
        found = hashlib.sha1(head + content, usedforsecurity=False).hexdigest()
    if want != found:
        name = getattr(stated, "rfilename", SET_FILE)
        raise BadInput(text, f"{name} is not what the Hub states: {found}, not {want}")


def _asked(text: object, ask: Callable[[], T]) -> T:
    """What the Hub answers; whatever goes wrong is one line."""
    try:
        return ask()
    except Exception as error:  # the library has dozens of kinds, and its transport others
        kind = type(error).__name__
        lines = [" ".join(line.split()) for line in str(error).splitlines() if line.strip()]
        why = _KINDS.get(kind, f"the Hub cannot be asked ({kind}: {(lines or [''])[0][:160]})")
        todo = (
            "'hf auth login', or the variable HF_TOKEN, says who you are." if kind in _KINDS else ""
        )
        raise BadInput(text, why, todo) from None


def _library(text: object) -> Any:
    """huggingface_hub, without its bars.

    Raises:
        BadInput: it is not installed.
    """
    try:
        import huggingface_hub
        from huggingface_hub.utils import disable_progress_bars
    except ImportError:
        raise BadInput(
            text, "needs huggingface_hub, which is not installed", "pip install 'ddaudit[hub]'"
        ) from None
    disable_progress_bars()
    return huggingface_hub
