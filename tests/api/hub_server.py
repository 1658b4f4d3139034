"""A stand-in for the Hugging Face hub: the few endpoints that huggingface_hub's client uses for models."""

import base64
import hashlib
import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

Files = dict[str, bytes]


@dataclass
class Repository:
    """Commits by their id, and the commit of each branch."""

    private: bool = False
    commits: dict[str, Files] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)

    def commit(self, branch: str, files: Files) -> str:
        oid = hashlib.sha1(repr((len(self.commits), sorted(files.items()))).encode()).hexdigest()
        self.commits[oid] = files
        self.branches[branch] = oid
        return oid

    @property
    def files(self) -> Files:
        return self.commits[self.branches["main"]]


@dataclass
class Hub:
    """What the server holds, and how it fails.

    breaks      Of a request's method and path: the status that it is refused with; 0 closes the connection.
    large       Whether files over 1,000 bytes go through git LFS.
    requests    Method and path of each.
    """

    endpoint: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    objects: Files = field(default_factory=dict)
    large: bool = False
    breaks: Callable[[str, str], int | None] = lambda *_: None
    requests: list[tuple[str, str]] = field(default_factory=list)

    def create(self, name: str, files: Files | None = None, private: bool = False) -> Repository:
        repository = self.repositories[name] = Repository(private)
        repository.commit("main", {".gitattributes": b"", **(files or {})})
        return repository


@contextmanager
def serve() -> Iterator[Hub]:
    hub = Hub()

    class Handler(_Handler):
        pass

    Handler.hub = hub
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Refused(Exception):
    def __init__(self, status: int, code: str = "", message: str = "") -> None:
        self.status, self.code, self.message = status, code, message


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._answer()

    do_HEAD = do_POST = do_PUT = do_GET  # noqa: N815 (http.server's names)

    def _answer(self) -> None:
        address = urlsplit(self.path)
        path = unquote(address.path)
        self.query = parse_qs(address.query)
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.hub.requests.append((self.command, path))
        status = self.hub.breaks(self.command, path)
        if status == 0:
            self.close_connection = True
            return
        try:
            if status:
                raise _Refused(status, message="the stand-in refuses")
            for method, pattern, handle in _ROUTES:
                if method == self.command and (match := re.fullmatch(pattern, path)):
                    handle(self, **match.groupdict())
                    return
            raise _Refused(404, "EntryNotFound")
        except _Refused as refused:
            headers = {"X-Error-Code": refused.code, "X-Error-Message": refused.message}
            self._send(json.dumps({"error": refused.message}).encode(), headers, refused.status)

    def _send(self, content: bytes, headers: dict[str, str], status: int = 200) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            if value:
                self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _json(self, value: Any) -> None:
        self._send(json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _repository(self, name: str) -> Repository:
        if name not in self.hub.repositories:
            raise _Refused(404, "RepoNotFound")
        return self.hub.repositories[name]

    def _at(self, name: str, revision: str | None) -> tuple[Repository, str, Files]:
        repository = self._repository(name)
        commit = repository.branches.get(revision or "main", revision or "")
        if commit not in repository.commits:
            raise _Refused(404, "RevisionNotFound")
        return repository, commit, repository.commits[commit]

    # -- endpoints ------------------------------------------------------------------------------------

    def create(self) -> None:
        asked = json.loads(self.body)
        name = f"{asked['organization']}/{asked['name']}"
        if name in self.hub.repositories:
            raise _Refused(409)
        self.hub.create(name, private=asked.get("visibility") == "private")
        self._json({"url": f"{self.hub.endpoint}/{name}"})

    def info(self, repo: str, revision: str | None = None) -> None:
        repository, commit, files = self._at(repo, revision)
        siblings: list[dict[str, Any]] = [{"rfilename": name} for name in files]
        if "blobs" in self.query:
            siblings = [
                {"rfilename": name, "size": len(files[name]), "blobId": _blob(files[name])} for name in files
            ]
        self._json({"id": repo, "sha": commit, "private": repository.private, "siblings": siblings})

    def tree(self, repo: str, revision: str) -> None:
        _, _, files = self._at(repo, revision)
        self._json(
            [
                {"type": "file", "path": name, "size": len(content), "oid": _blob(content)}
                for name, content in files.items()
            ]
        )

    def branch(self, repo: str, revision: str) -> None:
        repository = self._repository(repo)
        if revision in repository.branches:
            raise _Refused(409)
        repository.branches[revision] = repository.branches["main"]
        self._json({})

    def validate(self) -> None:
        known = 'license: "nonsense"' not in json.loads(self.body)["content"]
        errors = [] if known else [{"message": '"license" must be one of ...'}]
        self._send(json.dumps({"errors": errors, "warnings": []}).encode(), {}, 200 if known else 400)

    def preupload(self, repo: str, revision: str) -> None:
        _, _, files = self._at(repo, revision)
        answer = []
        for asked in json.loads(self.body)["files"]:
            mode = "lfs" if self.hub.large and asked["size"] > 1000 else "regular"
            oid = _blob(files[asked["path"]]) if asked["path"] in files else None
            answer.append({"path": asked["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        self._json({"files": answer})

    def lfs_batch(self) -> None:
        objects = []
        for asked in json.loads(self.body)["objects"]:
            actions = {"upload": {"href": f"{self.hub.endpoint}/objects/{asked['oid']}"}}
            objects.append({**asked, **({} if asked["oid"] in self.hub.objects else {"actions": actions})})
        self._json({"transfer": "basic", "objects": objects})

    def lfs_put(self, oid: str) -> None:
        if hashlib.sha256(self.body).hexdigest() != oid:
            raise _Refused(400)
        self.hub.objects[oid] = self.body
        self._json({})

    def commit(self, repo: str, revision: str) -> None:
        repository, parent, files = self._at(repo, revision)
        files = dict(files)
        for line in map(json.loads, self.body.splitlines()):
            value = line["value"]
            match line["key"]:
                case "header":
                    if value.get("parentCommit") not in (None, parent):
                        raise _Refused(412, message="A commit has happened since.")
                case "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                case "lfsFile":
                    files[value["path"]] = self.hub.objects[value["oid"]]
                case "deletedFile":
                    del files[value["path"]]
        oid = repository.commit(revision, files)
        self._json({"commitUrl": f"{self.hub.endpoint}/{repo}/commit/{oid}", "commitOid": oid})

    def resolve(self, repo: str, revision: str, name: str) -> None:
        _, commit, files = self._at(repo, revision)
        if name not in files:
            raise _Refused(404, "EntryNotFound")
        self._send(files[name], {"ETag": f'"{_blob(files[name])}"', "X-Repo-Commit": commit})


def _blob(content: bytes) -> str:
    """git's id of a file."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


_REPO = r"(?P<repo>[^/]+/[^/]+)"
_ROUTES: list[tuple[str, str, Callable[..., None]]] = [
    ("POST", "/api/repos/create", _Handler.create),
    ("POST", "/api/validate-yaml", _Handler.validate),
    ("GET", rf"/api/models/{_REPO}", _Handler.info),
    ("GET", rf"/api/models/{_REPO}/revision/(?P<revision>.+)", _Handler.info),
    ("GET", rf"/api/models/{_REPO}/tree/(?P<revision>.+)", _Handler.tree),
    ("POST", rf"/api/models/{_REPO}/branch/(?P<revision>.+)", _Handler.branch),
    ("POST", rf"/api/models/{_REPO}/preupload/(?P<revision>.+)", _Handler.preupload),
    ("POST", rf"/api/models/{_REPO}/commit/(?P<revision>.+)", _Handler.commit),
    ("POST", r"/.+\.git/info/lfs/objects/batch", _Handler.lfs_batch),
    ("PUT", r"/objects/(?P<oid>.+)", _Handler.lfs_put),
    *((m, rf"/{_REPO}/resolve/(?P<revision>[^/]+)/(?P<name>.+)", _Handler.resolve) for m in ("GET", "HEAD")),
]
