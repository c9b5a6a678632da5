"""A local server that speaks the protocol of the Hugging Face hub."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

TOKEN = "hf_right"


@dataclasses.dataclass
class Stored:
    """A repository. access: "public"; "gated" and "private" ask for TOKEN; a number is the status of every answer."""

    files: dict[str, bytes]
    access: str | int = "public"
    revisions: tuple[str, ...] = ("main",)

    @property
    def commit(self) -> str:
        return hashlib.sha1(repr(sorted(self.files.items())).encode()).hexdigest()


class Hub:
    """The repositories of a server by kind and name, such as models/org/name, and the requests it got."""

    def __init__(self) -> None:
        self.repos: dict[str, Stored] = {}
        self.requests: list[str] = []
        self.cut: set[str] = set()  # files whose download ends in the middle
        self.body = b""  # of the answers of a repository whose access is a status
        self.url = ""

    def add(self, name: str, files: dict[str, bytes | str], **settings: Any) -> Stored:
        raw = {path: data.encode() if isinstance(data, str) else data for path, data in files.items()}
        self.repos[name] = Stored(raw, **settings)
        return self.repos[name]

    def add_folder(self, name: str, folder: Path, **settings: Any) -> Stored:
        return self.add(name, {path.name: path.read_bytes() for path in folder.iterdir()}, **settings)

    def downloaded(self) -> set[str]:
        """The names of the files that were downloaded."""
        return {one.rpartition("/resolve/")[2].partition("/")[2] for one in self.requests if one.startswith("GET /r:")}


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: Any) -> None:
            pass

        def answer(self, status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def refuse(self, status: int, code: str) -> None:
            self.answer(status, b"{}", {"X-Error-Code": code, "X-Error-Message": code})

        def answer_json(self, value: Any) -> None:
            self.answer(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            path = unquote(urlsplit(self.path).path)
            api = re.fullmatch(r"/api/(models|datasets)/([^/]+/[^/]+)(?:/(revision|tree|refs)(?:/(.+))?)?", path)
            file = re.fullmatch(r"/(datasets/)?([^/]+/[^/]+)/resolve/((?:refs/[^/]+/)?[^/]+)/(.+)", path)
            hub.requests.append(f"{self.command} {'/r:' if file else ''}{path}")
            if api:
                kind, name, what, revision = api.groups()
            elif file:
                kind, name, what, revision = "datasets" if file[1] else "models", file[2], "file", file[3]
            else:
                return self.refuse(404, "RepoNotFound")
            repo = hub.repos.get(f"{kind}/{name}")
            trusted = self.headers.get("Authorization") == f"Bearer {TOKEN}"
            if repo is None or (repo.access == "private" and not trusted):
                return self.refuse(404 if trusted else 401, "RepoNotFound")
            if isinstance(repo.access, int):
                return self.answer(repo.access, hub.body)
            if repo.access == "gated" and what == "file" and not trusted:
                return self.refuse(403 if "Authorization" in self.headers else 401, "GatedRepo")
            if what == "refs":
                refs = [{"name": n, "ref": f"refs/heads/{n}", "targetCommit": repo.commit} for n in repo.revisions]
                return self.answer_json({"branches": refs, "converts": [], "tags": []})
            if revision not in (None, *repo.revisions, repo.commit):
                return self.refuse(404, "RevisionNotFound")
            if what == "tree":
                files = repo.files.items()
                return self.answer_json([{"type": "file", "path": p, "size": len(d), "oid": p} for p, d in files])
            if what != "file":
                files = [{"rfilename": p, "size": len(d)} for p, d in repo.files.items()]
                return self.answer_json({"id": name, "sha": repo.commit, "siblings": files})
            assert file
            if (data := repo.files.get(file[4])) is None:
                return self.refuse(404, "EntryNotFound")
            headers = {"ETag": f'"{hashlib.sha256(data).hexdigest()}"', "X-Repo-Commit": repo.commit}
            start = int((self.headers.get("Range") or "bytes=0-")[6:].partition("-")[0])
            if file[4] in hub.cut and self.command == "GET":
                self.send_response(200)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data[: len(data) // 2])
                self.close_connection = True
                return None
            return self.answer(206 if start else 200, data[start:], headers)

    return Handler


@contextlib.contextmanager
def hub_server() -> Iterator[Hub]:
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def forget() -> None:
    """Clears what this process has kept of the hub, as in a new process."""
    from r1jax import hub
    from r1jax.data.formats import sources

    for function in (hub.fetch_model, hub.list_files, sources._hub_files):
        function.cache_clear()


def use(monkeypatch: pytest.MonkeyPatch, url: str, cache: Path, offline: bool = False) -> None:
    """Sets what huggingface_hub read from its environment when it was imported."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(cache / "token"))
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    forget()
