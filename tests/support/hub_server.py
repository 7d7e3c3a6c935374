"""A hub on this machine: as much of the protocol of the Hugging Face hub as `huggingface_hub` needs for models."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlparse

import yaml


@dataclass
class Repository:
    """A model on the hub."""

    private: bool
    branches: dict[str, str] = field(default_factory=dict)
    """Commit of each branch."""
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    """Files of each commit by name."""

    def commit(self, branch: str, files: Mapping[str, bytes]) -> str:
        content = dict(self.commits.get(self.branches.get(branch, ""), {})) | dict(files)
        name = hashlib.sha1(repr((len(self.commits), sorted(content.items()))).encode()).hexdigest()
        self.commits[name], self.branches[branch] = content, name
        return name

    def resolve(self, revision: str) -> str | None:
        name = self.branches.get(revision, revision)
        return name if name in self.commits else None


@dataclass
class Hub:
    """The server: models by name, and the requests that it got."""

    token: str
    """The token that may write, and read what is private."""
    address: str = ""
    models: dict[str, Repository] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)

    def files(self, name: str, branch: str = "main") -> dict[str, bytes]:
        model = self.models[name]
        return model.commits[model.branches[branch]]


@contextmanager
def running_hub(token: str) -> Iterator[Hub]:
    """A hub that answers at its address until the block ends."""
    hub = Hub(token)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (_Handler,), {"hub": hub}))
    hub.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        self.hub.requests.append(f"{self.command} {self.path}")

    def _send(self, status: int, content: Any = None, headers: Mapping[str, str] | None = None) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _refuse(self, status: int, code: str) -> None:
        # As careless as a server can be: it repeats the token that it got.
        text = f"{code} {self.headers.get('Authorization')}"
        headers = {"X-Error-Code": code, "X-Error-Message": text}
        self._send(status, {"error": text}, headers)

    @property
    def _may_write(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {self.hub.token}"

    def _model(self, name: str) -> Repository | None:
        model = self.hub.models.get(name)
        if model is None or (model.private and not self._may_write):
            self._refuse(401, "RepoNotFound")
            return None
        return model

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        parts = [unquote(part) for part in urlparse(self.path).path.strip("/").split("/")]
        if parts[:2] == ["api", "models"]:
            self._describe("/".join(parts[2:4]), *(parts[4:6] or ("revision", "main")))
        elif parts[2] == "resolve":
            self._file("/".join(parts[:2]), parts[3], "/".join(parts[4:]))
        else:
            self._refuse(404, "EntryNotFound")

    def _describe(self, name: str, kind: str, revision: str) -> None:
        if (model := self._model(name)) is None:
            return
        if (commit := model.resolve(revision)) is None:
            self._refuse(404, "RevisionNotFound")
            return
        files = model.commits[commit]
        if kind == "tree":
            entries = [
                {"type": "file", "path": path, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                for path, content in files.items()
            ]
            self._send(200, entries)
            return
        siblings = [{"rfilename": path} for path in files]
        self._send(200, {"id": name, "sha": commit, "private": model.private, "siblings": siblings, "tags": []})

    def _file(self, name: str, revision: str, path: str) -> None:
        if (model := self._model(name)) is None:
            return
        commit = model.resolve(revision)
        if commit is None or path not in model.commits[commit]:
            self._refuse(404, "EntryNotFound" if commit else "RevisionNotFound")
            return
        content = model.commits[commit][path]
        headers = {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X-Repo-Commit": commit}
        self._send(200, content, headers)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = [unquote(part) for part in urlparse(self.path).path.strip("/").split("/")]
        if not self._may_write:
            self._refuse(401, "Unauthorized")
        elif parts == ["api", "validate-yaml"]:
            front = yaml.safe_load(json.loads(body)["content"].split("---\n")[1])
            errors = [] if isinstance(front.get("language"), list) else [{"message": "no language"}]
            self._send(400 if errors else 200, {"errors": errors, "warnings": []})
        elif parts == ["api", "repos", "create"]:
            self._create(json.loads(body))
        else:
            self._change("/".join(parts[2:4]), parts[4], parts[5], body)

    def _create(self, request: Mapping[str, Any]) -> None:
        name = f"{request['organization']}/{request['name']}"
        if name in self.hub.models:
            self._send(409, {"error": "exists", "url": f"{self.hub.address}/{name}"})
            return
        # Earlier versions of the package send the first of the two.
        private = bool(request.get("private")) or request.get("visibility") == "private"
        self.hub.models[name] = Repository(private)
        self.hub.models[name].commit("main", {".gitattributes": b""})
        self._send(200, {"url": f"{self.hub.address}/{name}"})

    def _change(self, name: str, action: str, branch: str, body: bytes) -> None:
        model = self.hub.models[name]
        if action == "branch":
            model.branches.setdefault(branch, model.branches["main"])
            self._send(201, {})
        elif action == "preupload":
            modes = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                for file in json.loads(body)["files"]
            ]
            self._send(200, {"files": modes})
        else:
            lines = [json.loads(line) for line in body.splitlines()]
            files = {
                line["value"]["path"]: base64.b64decode(line["value"]["content"])
                for line in lines
                if line["key"] == "file"
            }
            commit = model.commit(branch, files)
            self._send(200, {"commitUrl": f"{self.hub.address}/{name}/commit/{commit}", "commitOid": commit})
