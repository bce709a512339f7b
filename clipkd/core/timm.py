"""timm, imported so that it works beside a CPU build of torch as well: it imports torchvision (clipkd.core.vision).

Use: `from clipkd.core.timm import timm`.
"""

from __future__ import annotations

from clipkd.core.vision import torchvision  # noqa: F401

import timm  # isort: skip
from timm.data import ImageNetInfo  # isort: skip

__all__ = ["ImageNetInfo", "timm"]
