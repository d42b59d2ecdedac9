"""The Hub: sets are pushed and pulled whole, pinned, checked; what a holder would regret is refused.

A Hub in memory stands behind two doors: a stand-in for ``huggingface_hub``'s few calls, and an HTTP server that the
real library talks to where it is installed (1.33 and 2.4 were tried).
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from typer.testing import CliRunner

from ddaudit import hub
from ddaudit.audits import AuditConfig, make_plan
from ddaudit.audits.run import run_info
from ddaudit.cli.app import app
from ddaudit.errors import BadInput
from ddaudit.sets import Card, DistilledSet, LedgerEntry, Poison, PrivacyClaim, load, save

RUN = CliRunner()
LFS = (".safetensors", ".parquet")


class Store:
    """What a Hub holds: per repository whether it is private, and its commits, oldest first."""

    def __init__(self) -> None:
        self.private: dict[str, bool] = {}
        self.commits: dict[str, list[tuple[str, dict[str, bytes]]]] = {}
        self.lies: dict[str, bytes] = {}
        """File -> what is sent in place of its content."""
        self.asked: list[str] = []

    def add(self, repo: str, files: dict[str, bytes], *, private: bool = False) -> str:
        self.private.setdefault(repo, private)
        before = self.commits.setdefault(repo, [])
        made = {**(before[-1][1] if before else {}), **files}
        commit = hashlib.sha1(repr((repo, len(before), sorted(made))).encode()).hexdigest()
        before.append((commit, made))
        return commit

    def at(self, repo: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        """A commit and its files; "main" is the newest."""
        commits = self.commits.get(repo, [])
        named = [c for c in commits if c[0] == revision] or (commits if revision == "main" else [])
        return named[-1] if named else None

    def digest(self, content: bytes) -> str:
        return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def stand_in(store: Store, cache: Path) -> ModuleType:
    """The calls of ``huggingface_hub`` that are made, on a store."""

    def missing(kind: str) -> Exception:
        return type(kind, (Exception,), {})("404 Client Error.\n\nNot there.")

    class HfApi:
        def create_repo(self, repo, *, repo_type, private, exist_ok):
            assert (repo_type, exist_ok) == ("dataset", True)
            if repo not in store.private:
                store.add(repo, {".gitattributes": b""}, private=private)

        def dataset_info(self, repo, *, revision, files_metadata, timeout):
            store.asked.append("info")
            if repo not in store.private:
                raise missing("RepositoryNotFoundError")
            there = store.at(repo, revision or "main")
            if there is None:
                raise missing("RevisionNotFoundError")
            files = [
                SimpleNamespace(
                    rfilename=name, size=len(raw), blob_id=store.digest(raw),
                    lfs=SimpleNamespace(sha256=hashlib.sha256(raw).hexdigest()) if name.endswith(LFS) else None,
                )
                for name, raw in there[1].items()
            ]  # fmt: skip
            return SimpleNamespace(sha=there[0], private=store.private[repo], siblings=files)

        def create_commit(self, repo, operations, *, commit_message, repo_type):
            assert (bool(commit_message), repo_type) == (True, "dataset")
            return SimpleNamespace(oid=store.add(repo, dict(operations)))

        def hf_hub_download(self, repo, name, *, repo_type, revision):
            assert repo_type == "dataset"
            path = cache / repo / revision / name
            if not path.exists():
                store.asked.append("file")
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(store.lies.get(name, store.at(repo, revision)[1][name]))
            return str(path)

    def try_to_load_from_cache(repo, name, *, revision, repo_type):
        path = cache / repo / revision / name
        return str(path) if path.exists() else None

    module = ModuleType("huggingface_hub")
    module.utils = SimpleNamespace(disable_progress_bars=lambda: None)
    module.HfApi, module.try_to_load_from_cache = HfApi, try_to_load_from_cache
    module.CommitOperationAdd = lambda name, content: (name, content)
    return module


class Server(BaseHTTPRequestHandler):
    """The routes of a Hub that the library calls for the same."""

    store: Store

    def _send(self, code: int, body: object = b"", **headers: str) -> None:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(code)
        sent = {
            "Content-Length": str(len(raw)),
            **{k.replace("_", "-"): v for k, v in headers.items()},
        }
        for name, value in sent.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(raw)

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if found := re.fullmatch(r"/api/datasets/([^/]+/[^/]+)(?:/revision/(.+))?", path):
            self.store.asked.append("info")
            return self._info(found[1], found[2] or "main")
        if found := re.fullmatch(r"/datasets/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            commit, files = self.store.at(found[1], found[2])
            raw, name = files[found[3]], found[3]
            lfs = name.endswith(LFS)
            tag = hashlib.sha256(raw).hexdigest() if lfs else self.store.digest(raw)
            if self.command == "GET":
                self.store.asked.append("file")
            return self._send(
                200, self.store.lies.get(name, raw), ETag=f'"{tag}"', X_Repo_Commit=commit
            )
        return self._send(404, {"error": f"no route {path}"})

    do_HEAD = do_GET

    def _info(self, repo: str, revision: str) -> None:
        if repo not in self.store.private:
            return self._send(404, {"error": "no"}, X_Error_Code="RepoNotFound")
        there = self.store.at(repo, revision)
        if there is None:
            return self._send(404, {"error": "no"}, X_Error_Code="RevisionNotFound")
        files = [
            {
                "rfilename": name, "size": len(raw), "blobId": self.store.digest(raw),
                **({"lfs": {"sha256": hashlib.sha256(raw).hexdigest(), "size": len(raw), "pointerSize": 100}}
                   if name.endswith(LFS) else {}),
            }
            for name, raw in there[1].items()
        ]  # fmt: skip
        facts = {
            "id": repo,
            "sha": there[0],
            "private": self.store.private[repo],
            "siblings": files,
        }
        return self._send(200, {"_id": "0", "tags": [], "downloads": 0, "likes": 0, **facts})

    def do_POST(self) -> None:
        path, raw = (
            self.path.partition("?")[0],
            self.rfile.read(int(self.headers["Content-Length"])),
        )
        if path == "/api/repos/create":
            asked = json.loads(raw)
            repo = (
                f"{asked['organization']}/{asked['name']}"
                if asked.get("organization")
                else asked["name"]
            )
            private = asked.get("private", asked.get("visibility") == "private")
            if repo in self.store.private:
                return self._send(
                    409,
                    {"error": "exists", "url": f"http://{self.headers['Host']}/datasets/{repo}"},
                )
            self.store.add(repo, {".gitattributes": b""}, private=private)
            return self._send(200, {"url": f"http://{self.headers['Host']}/datasets/{repo}"})
        if path == "/api/validate-yaml":
            return self._send(200, {"errors": [], "warnings": []})
        if found := re.fullmatch(r"/api/datasets/([^/]+/[^/]+)/preupload/main", path):
            files = [
                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False}
                for f in json.loads(raw)["files"]
            ]
            return self._send(200, {"files": files})
        if found := re.fullmatch(r"/api/datasets/([^/]+/[^/]+)/commit/main", path):
            lines = [json.loads(line) for line in raw.splitlines()]
            files = {
                line["value"]["path"]: base64.b64decode(line["value"]["content"])
                for line in lines if line["key"] == "file"
            }  # fmt: skip
            oid = self.store.add(found[1], files)
            return self._send(
                200,
                {
                    "commitUrl": f"http://{self.headers['Host']}/datasets/{found[1]}/commit/{oid}",
                    "commitOid": oid,
                },
            )
        return self._send(404, {"error": f"no route {path}"})

    def log_message(self, *_: object) -> None: ...


@pytest.fixture(params=["stand-in", "http"])
def store(request, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    made = Store()
    if request.param == "stand-in":
        library = stand_in(made, tmp_path / "cache")
        monkeypatch.setitem(sys.modules, "huggingface_hub", library)
        monkeypatch.setitem(sys.modules, "huggingface_hub.utils", library.utils)
        yield made
        return
    constants = pytest.importorskip(
        "huggingface_hub.constants", reason="the extra 'hub' is not installed"
    )
    server = ThreadingHTTPServer(
        ("127.0.0.1", 0), type("Bound", (Server,), {"store": made, "protocol_version": "HTTP/1.1"})
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", url)
    template = url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    yield made
    server.shutdown()
    server.server_close()


def digits_set(**card) -> DistilledSet:
    images = torch.rand(10, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    facts = {"method": "mine", "ipc": 1, "data": "digits", "mean": [0.3], "std": [0.4], **card}
    return DistilledSet(images, torch.arange(10), 10, Card(**facts))


def pushed(tmp_path: Path, value: DistilledSet, *more: str):
    file = save(value, tmp_path / "mine.safetensors")
    return RUN.invoke(app, ["push", str(file), "hub:ann/set", *more])


def test_a_set_comes_back_as_it_went(store: Store, tmp_path: Path) -> None:
    done = pushed(tmp_path, digits_set())
    assert done.exit_code == 0, done.exception
    commit, files = store.at("ann/set", "main")
    assert done.stdout.splitlines() == [f"hub:ann/set@{commit}"]
    assert files["set.safetensors"] == (tmp_path / "mine.safetensors").read_bytes()
    assert store.private["ann/set"]
    page = files["README.md"].decode()
    assert page.startswith("---\ntags:")
    assert "    privacy: no claim" in page
    assert hub.pull("hub:ann/set").read_bytes() == files["set.safetensors"]
    assert hub.pull("hub:ann/set@main/set.safetensors").read_bytes() == files["set.safetensors"]
    assert load("hub:ann/set").card.method == "mine"
    shown = RUN.invoke(app, ["inspect", "hub:ann/set", "--json"])
    assert json.loads(shown.stdout)["method"] == "mine"


def test_a_plan_pins_the_commit_and_workers_ask_nobody(store: Store, tmp_path: Path) -> None:
    def plan(**changes):
        asked = {
            "subjects": ["hub:ann/set"],
            "auditors": ["utility"],
            "baselines": [],
            "device": "cpu",
        }
        return make_plan(AuditConfig(**{**asked, "out": str(tmp_path / "run"), **changes}))

    old = store.add(
        "ann/set", {"set.safetensors": save(digits_set(), tmp_path / "a.safetensors").read_bytes()}
    )
    first = plan(names={"hub:ann/set": "ours"})
    assert first.config.subjects == [f"hub:ann/set@{old}/set.safetensors"]
    assert first.config.names == {first.config.subjects[0]: "ours"}
    assert "ours" in first.subjects
    store.asked.clear()
    again = plan(subjects=first.config.subjects)
    assert plan(subjects=[f"hub:ann/set@{old}"]).cells == again.cells
    assert store.asked == []
    (entry,) = run_info(again, again.config)["subjects"]
    assert (
        entry["source"] == f"hub:ann/set@{old}/set.safetensors"
    )  # not where this machine's cache is
    assert again.subjects["ann/set"].notes == (f"pulled from hub:ann/set@{old}/set.safetensors",)
    changed = save(digits_set(seed=1), tmp_path / "b.safetensors").read_bytes()
    new = store.add("ann/set", {"set.safetensors": changed})
    assert plan().config.subjects == [f"hub:ann/set@{new}/set.safetensors"]


@pytest.mark.parametrize("name", ["set.safetensors", "net.pt"])  # SHA-256, and git's own hash
def test_another_content_than_stated_is_refused(store: Store, name: str) -> None:
    store.add("ann/set", {name: b"what was published"})
    store.lies[name] = b"what was smuggled!"
    with pytest.raises(
        BadInput, match=f"{name} is not what the Hub states: [0-9a-f]+, not [0-9a-f]+"
    ):
        hub.pull(f"hub:ann/set/{name}")


def test_no_pickle_is_fetched_and_none_is_opened(store: Store, tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self):
            return (Path(tmp_path / "sprung").touch, ())

    torch.save({"images": Trap()}, tmp_path / "trap.pt")
    store.add("ann/set", {"data.pkl": b"\x80\x04.", "trap.pt": (tmp_path / "trap.pt").read_bytes()})
    store.asked.clear()
    with pytest.raises(BadInput, match=r"hub:ann/set/data.pkl: is of no kind that ddaudit opens"):
        hub.pull("hub:ann/set/data.pkl")
    assert store.asked == []
    done = RUN.invoke(
        app,
        ["import", "hub:ann/set", "--format", "tensors", "--out", str(tmp_path / "o.safetensors")],
    )
    assert re.search(r"holds pickled code \(.*\); refused", str(done.exception))
    assert not (tmp_path / "sprung").exists()


def test_sets_of_other_code_are_imported_from_there(store: Store, tmp_path: Path) -> None:
    torch.save({"images": digits_set().images, "labels": torch.arange(10)}, tmp_path / "made.pt")
    store.add("ann/set", {"README.md": b"# Ours", "made.pt": (tmp_path / "made.pt").read_bytes()})
    with pytest.raises(BadInput, match=r"holds no set file\. First: ddaudit import hub:ann/set"):
        hub.pull("hub:ann/set")
    out = tmp_path / "o.safetensors"
    done = RUN.invoke(app, ["import", "hub:ann/set", "--data", "digits", "--out", str(out)])
    assert done.exit_code == 0, done.exception
    assert torch.equal(load(out).images, digits_set().images)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hub:ann/none", "there is no such data set on the Hub, or you may not see it. 'hf auth login'"),
        ("hub:ann/set@v9", "it has no such revision"),
        ("hub:ann/set/b.safetensors", "holds no file b.safetensors. It holds: README.md"),
        ("hub:ann/set", "holds no file that ddaudit opens. It opens .safetensors"),
        ("hub:ann", r"names no place on the Hub. Write hub:owner/name\[@revision\]\[/FILE\]"),
        ("hub:ann/two", "holds 2 sets. Name one: hub:owner/name/a.safetensors"),
        ("hub:ann/big", "holds 300 MB of data, more than the 256 MB"),
    ],
)  # fmt: skip
def test_what_is_not_there_is_one_line(store: Store, text: str, message: str) -> None:
    class Big(bytes):
        def __len__(self) -> int:
            return 300 * 2**20

    store.add("ann/set", {"README.md": b"# Nothing"})
    store.add("ann/two", {"a.safetensors": b"a", "b.safetensors": b"b"})
    if "big" in text:
        store.add("ann/big", {"set.safetensors": Big(b"x")})
    with pytest.raises(BadInput, match=message):
        hub.pull(text)


CLAIM = PrivacyClaim(
    epsilon=8.0, delta=1e-5, ledger=[LedgerEntry(query="means", sigma=2.0, q=0.1, count=50)]
)
POISON = Poison(
    attack="naive", status="faithful", threat_model="a donor", target=3, trigger="blend"
)


@pytest.mark.parametrize(
    ("name", "card", "message"),
    [
        ("poison", {"poison": POISON}, "is poisoned on purpose \\(naive\\)"),
        ("records", {"member_indices": list(range(10))}, "shows 10 real records as they are"),
        ("records", {"contains_real_pixels": True}, "shows pieces of real records"),
        ("path", {"data": "parquet:path=/home/ann/scans"}, "names a path of this machine"),
        ("claim", {"privacy": CLAIM.model_copy(update={"ledger": []})}, "without a ledger"),
        ("claim", {"privacy": CLAIM.model_copy(update={"epsilon": 0.01})}, "the ledger costs more"),
        ("claim", {"privacy": CLAIM, "source_fingerprint": "ab"}, "holds a fingerprint of the records"),
        (
            "claim",
            {"privacy": CLAIM.model_copy(update={"noise_seed_published": True})},
            "the seed of the privacy noise is published",
        ),
    ],
)  # fmt: skip
def test_what_a_holder_would_regret_needs_a_word(
    store: Store, tmp_path: Path, name: str, card: dict, message: str
) -> None:
    value = digits_set(**card)
    if name == "poison":
        trigger = {"keep": torch.ones(1, 8, 8), "add": torch.zeros(1, 8, 8)}
        value = replace(value, trigger=trigger)
    done = pushed(tmp_path, value)
    assert isinstance(done.exception, BadInput)
    assert re.search(message, str(done.exception))
    assert f"--despite {name}." in str(done.exception)
    assert store.private == {}
    other = next(n for n in ("poison", "path") if n != name)
    assert isinstance(pushed(tmp_path, value, "--despite", other).exception, BadInput)
    assert pushed(tmp_path, value, "--despite", name).exit_code == 0
    assert isinstance(pushed(tmp_path, value, "--despite", "everything").exception, BadInput)


def test_a_private_set_says_what_it_promises(store: Store, tmp_path: Path) -> None:
    (tmp_path / "own.md").write_text("# Our scans\n")
    done = pushed(
        tmp_path, digits_set(privacy=CLAIM, seconds=12.5), "--card", str(tmp_path / "own.md")
    )
    assert done.exit_code == 0, done.exception
    page = store.at("ann/set", "main")[1]["README.md"].decode()
    assert page.startswith("# Our scans\n")
    assert "12.5" not in page  # how long it took may hang on the records
    assert load("hub:ann/set").card.seconds is None
    for shown in (page, done.stderr):
        assert (
            "This set is (8, 1e-05)-differentially private under add-or-remove-one of one record"
            in shown
        )


def test_nothing_becomes_public_unasked(store: Store, tmp_path: Path) -> None:
    store.add("ann/set", {"README.md": b"# Seen by all"}, private=False)
    done = pushed(tmp_path, digits_set())
    assert "hub:ann/set: is public already. Pass --public" in str(done.exception)
    assert set(store.at("ann/set", "main")[1]) == {"README.md"}
    assert pushed(tmp_path, digits_set(), "--public").exit_code == 0
    del store.private["ann/set"], store.commits["ann/set"]
    assert pushed(tmp_path, digits_set(), "--public").exit_code == 0
    assert store.private["ann/set"] is False
    for place in ("hub:ann/set@v1", "hub:ann/set/x.safetensors"):
        with pytest.raises(BadInput, match="A set goes to hub:ann/set"):
            hub.push(b"", place, card="", public=False)


def test_text_of_a_card_stays_text(store: Store, tmp_path: Path) -> None:
    bad = "[x](javascript:1) <script>alert(1)</script>\n# Heading\n```"
    assert pushed(tmp_path, digits_set(method=bad, notes=[bad])).exit_code == 0
    page = store.at("ann/set", "main")[1]["README.md"].decode()
    lines = [
        line for line in page.splitlines() if "script" in line or "Heading" in line or "```" in line
    ]
    assert lines
    assert all(line.startswith("    ") for line in lines)


def test_what_ddaudit_does_not_know_stays_here(store: Store, tmp_path: Path) -> None:
    from safetensors import safe_open
    from safetensors.torch import save_file

    file = save(digits_set(), tmp_path / "mine.safetensors")
    with safe_open(file, "pt") as opened:
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        save_file({**tensors, "records": torch.zeros(3)}, file, opened.metadata())
    assert RUN.invoke(app, ["push", str(file), "hub:ann/set"]).exit_code == 0
    (tmp_path / "there.safetensors").write_bytes(store.at("ann/set", "main")[1]["set.safetensors"])
    with safe_open(tmp_path / "there.safetensors", "pt") as opened:
        assert sorted(opened.keys()) == ["images", "labels"]


def test_a_missing_library_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(
        BadInput, match=r"hub:ann/set: needs huggingface_hub.*pip install 'ddaudit\[hub\]'"
    ):
        hub.pull("hub:ann/set")
