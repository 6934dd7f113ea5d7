"""A stand-in for the Hugging Face hub on the loopback: it takes what huggingface_hub's own client
creates, uploads and commits."""

from __future__ import annotations

import base64
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import yaml

TOKEN = "hf_" + "x" * 34
REFUSING = {"nobody": 401, "forbidden": 403, "missing": 404, "busy": 503, "odd": 418}  # by owner


@dataclass
class Repository:
    """What is in a repository, and the messages of its commits."""

    private: bool = False
    files: dict[str, bytes] = field(default_factory=dict)
    commits: list[str] = field(default_factory=list)


@dataclass
class Hub:
    """Repositories by (type, name), what was asked for, and licences of base models. While ``held``
    is set, large files do not arrive; ``lost`` answers them with an error. A ``strict`` hub takes
    no card."""

    url: str = ""
    repositories: dict[tuple[str, str], Repository] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    licences: dict[str, str] = field(default_factory=dict)
    large: dict[str, bytes] = field(default_factory=dict)
    lost: bool = False
    strict: bool = False
    held: threading.Event | None = None
    waiting: threading.Event = field(default_factory=threading.Event)

    def model(self, name: str) -> Repository:
        return self.repositories["model", name]


@contextmanager
def serving() -> Iterator[Hub]:
    hub = Hub()

    class Handler(_Handler):
        stands_for = hub

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    hub.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        if hub.held is not None:
            hub.held.set()
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    stands_for: Hub

    def do_GET(self) -> None:
        self._begin()
        if asked := re.fullmatch(r"/api/(model|dataset)s/([^/]+/[^/?]+)(\?.*)?", self.path):
            self._describe(asked[1], asked[2])
        else:
            self._answer(404, {"error": f"nothing at {self.path}"})

    def do_POST(self) -> None:
        hub, path = self._begin(), self.path.partition("?")[0]
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._answer(401, {"error": "Invalid username or password."})
        elif path == "/api/repos/create":
            self._create(json.loads(self.body))
        elif path == "/api/validate-yaml":
            self._validate(json.loads(self.body)["content"])
        elif asked := re.fullmatch(r"/api/(\w+)s/(.+)/preupload/main", path):
            self._preupload(json.loads(self.body))
        elif asked := re.fullmatch(r"/(?:datasets/)?(.+)\.git/info/lfs/objects/batch", path):
            objects = [
                {**o, "actions": {"upload": {"href": f"{hub.url}/large/{o['oid']}"}}}
                for o in json.loads(self.body)["objects"]
            ]
            self._answer(200, {"transfer": "basic", "objects": objects})
        elif asked := re.fullmatch(r"/api/(\w+)s/(.+)/commit/main", path):
            self._commit(hub.repositories[asked[1], asked[2]])
        else:
            self._answer(404, {"error": f"nothing at {path}"})

    def do_PUT(self) -> None:
        hub = self._begin()
        if hub.held is not None:
            hub.waiting.set()
            hub.held.wait(60)
        if hub.lost:
            self._answer(400, {"error": "lost"})
            return
        hub.large[self.path.rpartition("/")[2]] = self.body
        self._answer(200, {})

    def _begin(self) -> Hub:
        self.body = self._read()
        self.stands_for.requests.append(f"{self.command} {self.path}")
        return self.stands_for

    def _read(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _create(self, asked: dict[str, Any]) -> None:
        hub, name = self.stands_for, f"{asked['organization']}/{asked['name']}"
        if code := REFUSING.get(asked["organization"]):
            self._answer(code, {"error": f"no, says the hub to {name}"})
            return
        kind = asked.get("type") or "model"
        known = any(other == name for _, other in hub.repositories)
        if not known:
            private = asked.get("visibility") == "private" or bool(asked.get("private"))
            hub.repositories[kind, name] = Repository(private)
        place = f"datasets/{name}" if kind == "dataset" else name
        self._answer(409 if known else 200, {"url": f"{hub.url}/{place}", "error": "exists"})

    def _describe(self, kind: str, name: str) -> None:
        hub = self.stands_for
        if licence := hub.licences.get(name):
            self._answer(200, {"id": name, "siblings": [], "cardData": {"license": licence}})
        elif there := hub.repositories.get((kind, name)):
            files = [{"rfilename": file} for file in there.files]
            told = {"id": name, "private": there.private, "siblings": files, "sha": "0" * 40}
            self._answer(200, told)
        else:
            self._answer(404, {"error": "Repository not found"}, "RepoNotFound")

    def _validate(self, card: str) -> None:
        """Of the hub's rules for cards those on what a figure must name."""
        front = yaml.safe_load(card.split("---\n")[1])
        wrong = [
            f"{kind}.{key} is not a text"
            for model in front.get("model-index", ())
            for result in model["results"]
            for kind, key in (("task", "type"), ("dataset", "type"), ("dataset", "name"))
            if not isinstance(result[kind].get(key), str)
        ]
        wrong += ["refused"] if self.stands_for.strict else []
        found = [{"message": text} for text in wrong]
        self._answer(400 if wrong else 200, {"warnings": [], "errors": found})

    def _preupload(self, asked: dict[str, Any]) -> None:
        def mode(path: str) -> str:
            return "lfs" if path.endswith(".safetensors") else "regular"

        files = [
            {"path": one["path"], "uploadMode": mode(one["path"]), "shouldIgnore": False}
            for one in asked["files"]
        ]
        self._answer(200, {"files": files})

    def _commit(self, to: Repository) -> None:
        for row in map(json.loads, self.body.splitlines()):
            value = row["value"]
            if row["key"] == "header":
                to.commits.append(value["summary"])
            elif row["key"] == "file":
                to.files[value["path"]] = base64.b64decode(value["content"])
            elif row["key"] == "lfsFile":
                to.files[value["path"]] = self.stands_for.large[value["oid"]]
            elif row["key"] == "deletedFile":
                del to.files[value["path"]]
        url = f"{self.stands_for.url}/some/one/commit/{'1' * 40}"
        self._answer(200, {"commitUrl": url, "commitOid": "1" * 40})

    def _answer(self, status: int, value: dict[str, Any], code: str = "") -> None:
        content = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        if code:
            self.send_header("X-Error-Code", code)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""
