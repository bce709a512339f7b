"""A server on 127.0.0.1 that takes uploads as the Hugging Face hub does; large files come by git-LFS."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler

from tests.loopback import Loopback

COMMIT = "c" * 40
PREUPLOAD = re.compile(r"/api/(?:models|datasets)/([^/]+/[^/]+)/preupload/main")
LFS = re.compile(r"/(?:datasets/)?([^/]+/[^/]+)\.git/info/lfs/objects/batch")
COMMITTED = re.compile(r"/api/(?:models|datasets)/([^/]+/[^/]+)/commit/main")


@dataclass
class Upload(Loopback):
    """What was uploaded, and what was asked for."""

    token: str
    is_broken: bool = False
    """True: every commit is answered with status 500."""
    card_errors: list[str] = field(default_factory=list)
    """What is wrong with a card's header, as the hub says it."""
    repositories: dict[str, dict[str, bytes]] = field(default_factory=dict)
    private: dict[str, bool] = field(default_factory=dict)
    types: dict[str, str] = field(default_factory=dict)
    """Of repositories: model or dataset."""
    objects: dict[str, bytes] = field(default_factory=dict)
    """Large files by sha256."""
    requests: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        upload = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                path = self.path.partition("?")[0]
                upload.requests.append(f"{self.command} {path}")
                is_signed = path.startswith(("/store/", "/api/validate-yaml"))
                allowed = is_signed or self.headers.get("Authorization") == f"Bearer {upload.token}"
                status, said = upload.take(self.command, path, body) if allowed else (401, {"error": "Unauthorized"})
                content = json.dumps(said).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_POST = do_PUT = answer

        self.serve(Handler)

    def take(self, command: str, path: str, body: bytes) -> tuple[int, object]:
        """Return status and answer."""
        if path == "/api/validate-yaml":
            listed = [{"message": message} for message in self.card_errors]
            return (400 if listed else 200), {"errors": listed, "warnings": []}
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked.get('organization', 'me')}/{asked['name']}"
            is_known = name in self.repositories
            self.repositories.setdefault(name, {})
            self.types[name] = asked.get("type", "model")
            self.private[name] = asked.get("visibility") == "private"
            return (409 if is_known else 200), {"url": f"{self.url}/{name}", "id": name, "name": name}
        if command == "PUT" and path.startswith("/store/"):
            if hashlib.sha256(body).hexdigest() != path.removeprefix("/store/"):
                return 400, {"error": "other bytes than announced"}
            self.objects[path.removeprefix("/store/")] = body
            return 200, {}
        if path == "/verify":
            return (200 if json.loads(body)["oid"] in self.objects else 404), {}
        for pattern, take in ((PREUPLOAD, self.modes), (LFS, self.batch), (COMMITTED, self.commit)):
            found = pattern.fullmatch(path)
            if found and found[1] in self.repositories:
                return take(found[1], body)
        return 404, {"error": f"no such thing: {command} {path}"}

    def modes(self, name: str, body: bytes) -> tuple[int, object]:
        """Say which files go into git itself: the hub sends binary ones through LFS."""
        files = []
        for asked in json.loads(body)["files"]:
            mode = "lfs" if asked["path"].endswith((".safetensors", ".parquet")) else "regular"
            files.append({"path": asked["path"], "uploadMode": mode, "shouldIgnore": False, "oid": None})
        return 200, {"files": files}

    def batch(self, name: str, body: bytes) -> tuple[int, object]:
        """Say where the large files that are not there yet are to be uploaded."""
        objects = []
        for asked in json.loads(body)["objects"]:
            upload = {"href": f"{self.url}/store/{asked['oid']}", "header": {}}
            actions = {"upload": upload, "verify": {"href": f"{self.url}/verify", "header": {}}}
            objects.append(asked | ({} if asked["oid"] in self.objects else {"actions": actions}))
        return 200, {"transfer": "basic", "objects": objects}

    def commit(self, name: str, body: bytes) -> tuple[int, object]:
        if self.is_broken:
            return 500, {"error": "broken"}
        files = {}
        for line in map(json.loads, body.decode().splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.objects[value["oid"]]
        self.repositories[name] |= files
        return 200, {"commitUrl": f"{self.url}/{name}/commit/{COMMIT}", "commitOid": COMMIT, "pullRequestUrl": None}
