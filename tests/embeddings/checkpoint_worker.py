"""Runs `fetch` and `pin` in a process of its own: huggingface_hub reads its settings when it is imported.

Each line on standard input is a JSON command; each answer is a JSON line on standard output.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from clipkd.core.errors import ClipkdError
from clipkd.embeddings.teacher_checkpoint import fetch, pin
from clipkd.plugins import teachers


def run(command: dict[str, Any]) -> Any:
    if command["do"] == "pin":
        entry = pin(command["name"])
        spec = teachers.get(command["name"])
        assert isinstance(spec, teachers.HubTeacher)
        return entry | {"spec": [spec.revision, spec.weights_sha256]}
    kind = getattr(teachers, command["kind"])
    artifact = fetch(kind(**command["teacher"]), Path(command["folder"]))
    return {"facts": artifact.facts, "files": sorted(artifact.manifest["files"])}


for line in sys.stdin:
    try:
        answer = run(json.loads(line))
    except ClipkdError as error:
        answer = {"error": type(error).__name__, "message": str(error)}
    print(json.dumps(answer), flush=True)
