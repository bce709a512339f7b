"""A server on 127.0.0.1 that answers as the Hugging Face hub does, as far as downloads and pins need it.

Large files are redirected with their sha256 as `X-Linked-Etag`, small ones come at once; errors carry
`X-Error-Code`.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler

from tests.loopback import Loopback

RESOLVE = re.compile(r"/((?:datasets/)?[^/]+/[^/]+)/resolve/([^/]+)/([^?]+)")
MODEL = re.compile(r"/api/(?:models/)?((?:datasets/)?[^/]+/[^/]+)/revision/([^/?]+)")
STORE = re.compile(r"/store/((?:datasets/)?[^/]+/[^/]+)/(.+)")


@dataclass
class Repository:
    """A repository with one commit, which `main` points to; that of a dataset has an id `datasets/owner/name`."""

    commit: str
    files: dict[str, bytes]
    is_gated: bool = False
    damaged_sends: int = 0
    """How often the weights still go out with a flipped bit."""
    status: int | None = None
    """Sent in answer to everything."""
    is_small: bool = False
    """True: the weights lie in git itself, and the hub keeps no sha256 of them."""


@dataclass
class Hub(Loopback):
    """Repositories by id, and what was asked for."""

    repositories: dict[str, Repository] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    """Method and path of each request."""
    authorizations: dict[str, str | None] = field(default_factory=dict)
    """Path -> Authorization header."""

    def __post_init__(self) -> None:
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                hub.requests.append(f"{self.command} {self.path}")
                hub.authorizations[self.path] = self.headers.get("Authorization")
                status, headers, body = hub.answer(self.path)
                self.send_response(status)
                for name, value in ({"Content-Length": str(len(body))} | headers).items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(body)

            do_HEAD = do_GET

        self.serve(Handler)
        self.store_url = f"http://localhost:{self.server.server_port}"  # another host, as the hub's file store is

    def asked_for(self, hub_id: str) -> set[str]:
        """Return the names of the files that were asked for."""
        found = [re.search(rf" /(?:store/)?{hub_id}/(?:resolve/\w+/)?(.+)", request) for request in self.requests]
        return {match[1] for match in found if match}

    def answer(self, path: str) -> tuple[int, dict[str, str], bytes]:
        """Return status, headers and body."""
        found = RESOLVE.match(path) or MODEL.match(path) or STORE.match(path)
        repository = self.repositories.get(found[1]) if found else None
        if found is None or repository is None:
            return refusal(404, "RepoNotFound")
        if repository.status:
            return repository.status, {}, b"no"
        if repository.is_gated:
            return refusal(403, "GatedRepo")
        if found.re is STORE:
            return self.send_large(repository, found[2])
        if found[2] not in {repository.commit, "main"}:
            return refusal(404, "RevisionNotFound")
        if found.re is MODEL:
            return 200, {"Content-Type": "application/json"}, json.dumps(described(found[1], repository)).encode()
        content, headers = repository.files.get(found[3]), {"X-Repo-Commit": repository.commit}
        if content is None:
            status, error, body = refusal(404, "EntryNotFound")
            return status, error | headers, body
        if found[3].endswith(".json") or repository.is_small:
            return 200, headers | {"ETag": f'"{blob(content)}"'}, content
        linked = {"X-Linked-Etag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Linked-Size": str(len(content))}
        return 302, headers | linked | {"Location": f"{self.store_url}/store/{found[1]}/{found[3]}"}, b""

    def send_large(self, repository: Repository, name: str) -> tuple[int, dict[str, str], bytes]:
        content = bytearray(repository.files[name])
        if repository.damaged_sends:
            repository.damaged_sends -= 1
            content[-5] ^= 1
        return 200, {}, bytes(content)


def blob(content: bytes) -> str:
    """Return git's name of a file."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def refusal(status: int, code: str) -> tuple[int, dict[str, str], bytes]:
    return status, {"X-Error-Code": code, "X-Error-Message": code}, b"{}"


def described(hub_id: str, repository: Repository) -> dict[str, object]:
    siblings: list[dict[str, object]] = []
    for name, content in repository.files.items():
        entry: dict[str, object] = {
            "rfilename": name,
            "size": len(content),
            "blobId": blob(content),
        }
        if not name.endswith(".json") and not repository.is_small:
            entry["lfs"] = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}
        siblings.append(entry)
    return {
        "id": hub_id,
        "modelId": hub_id,
        "sha": repository.commit,
        "siblings": siblings,
        "tags": [],
        "private": False,
    }
