"""Names on the Hugging Face hub. No torch here."""

from __future__ import annotations

import re

COMMIT = re.compile(r"[0-9a-f]{40}")
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
