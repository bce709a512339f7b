"""The image processor: how a checkpoint wants its images, read from its preprocessor_config.json.

Rules that are not followed here are refused in words, never left out in silence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from clipkd.core.artifacts import Artifact, read_json
from clipkd.core.errors import DataError, InputError
from clipkd.data.pixels import normalised
from clipkd.embeddings.families import processor_defaults
from clipkd.plugins.teachers import TeacherSpec

FILTERS = {2: "bilinear", 3: "bicubic"}
"""PIL's numbers of the filters that are followed."""
REFUSED = {
    "do_pad": "padding",
    "crop_pct": "a crop in percent",
    "do_reduce_labels": "labels as images",
    "do_thumbnail": "thumbnails",
    "do_align_long_axis": "turned images",
}


@dataclass(frozen=True)
class Processor:
    """Resizing, cropping and normalisation, in this order."""

    height: int
    width: int | None
    """What an image is resized to; width None: its short side to `height`, its shape kept."""
    crop: int | None
    """Side of the square that is cut out of the middle, in pixels."""
    filter: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    """In units of [0, 1]."""

    @property
    def image_size(self) -> int:
        """Side of the model's input, in pixels."""
        return self.crop or self.height

    def present(self, pixels: Tensor) -> Tensor:
        """Return pixels [B, 3, H, W] in [0, 1] as the model's input [B, 3, S, S]."""
        return normalised(self.cropped(self.resized(pixels)), self.mean, self.std)

    def resized(self, pixels: Tensor) -> Tensor:
        height, width = pixels.shape[-2:]
        size = (self.height, self.width)
        if self.width is None:
            # As transformers rounds: the long side is cut to a whole number of pixels.
            short = min(height, width)
            size = (int(self.height * height / short), int(self.height * width / short))
        if (height, width) == size:
            return pixels
        made = F.interpolate(pixels, size=size, mode=self.filter, antialias=True, align_corners=False)  # type: ignore[arg-type]
        return made.clamp(0, 1)  # bicubic overshoots, which an 8-bit image can't

    def cropped(self, pixels: Tensor) -> Tensor:
        if self.crop is None:
            return pixels
        top, left = ((side - self.crop) // 2 for side in pixels.shape[-2:])
        return pixels[..., top : top + self.crop, left : left + self.crop]


def processor(spec: TeacherSpec, artifact: Artifact) -> Processor:
    """Return the image processor of a checkpoint.

    Raises:
        DataError: its file gives no size, mean or standard deviation, or others than the teacher is known with.
        InputError: it asks for something that is not followed here.
    """
    path = artifact.file("preprocessor_config.json")
    values = read_json(path)
    made = read(spec, values, path)
    for what, here, known in zip(
        ("size", "image_mean", "image_std"),
        (made.image_size, made.mean, made.std),
        (spec.image_size, spec.mean, spec.std),
        strict=True,
    ):
        if known is not None and here != known:
            raise DataError(f"{path}: {what} is {here}, but teacher '{spec.name}' is known with {known}")
    if spec.mean is not None and (made.filter != "bilinear" or made.crop or made.width is None):
        raise DataError(f"{path} crops or does not resize bilinearly, but teacher '{spec.name}' is known without that")
    return made


def read(spec: TeacherSpec, values: dict[str, Any], path: Path) -> Processor:
    """Return the processor that the values of a preprocessor_config.json describe."""
    kind = str(values.get("image_processor_type") or values.get("feature_extractor_type") or "")
    defaults = processor_defaults(kind)
    for key, what in REFUSED.items():
        if values.get(key):
            raise refusal(spec, path, f"{key} ({what})")
    if not values.get("do_resize", True):
        raise refusal(spec, path, "do_resize: false (images as they come)")
    if values.get("rescale_offset") or abs(float(values.get("rescale_factor") or 1 / 255) * 255 - 1) > 1e-6:
        raise refusal(spec, path, "rescale_factor other than 1/255")
    resample = values.get("resample", defaults.resample)
    if resample not in FILTERS:
        raise refusal(spec, path, f"resample: {resample} (known: 2, bilinear; 3, bicubic)")
    height, width = size_of(values, defaults.short_side)
    mean, std = tuple(values.get("image_mean") or ()), tuple(values.get("image_std") or ())
    if not values.get("do_normalize", True):
        mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    if height is None or len(mean) != 3 or len(std) != 3:
        raise DataError(f"{path} gives no input size, image_mean and image_std")
    crop = None
    if values.get("do_center_crop", defaults.crop):
        crop, other = both(values.get("crop_size", height))
        if crop is None or crop != other or crop > height or (width is not None and crop > width):
            raise refusal(spec, path, f"crop_size: {values.get('crop_size')} of an image of {height} pixels")
    elif width is None:
        raise refusal(spec, path, "size: shortest_edge without a crop (images of several shapes)")
    elif height != width:
        raise refusal(spec, path, f"an input of {height} x {width} pixels")
    return Processor(height, width, crop, FILTERS[resample], mean, std)


def size_of(values: dict[str, Any], short_side: bool) -> tuple[int | None, int | None]:
    """Return height and width of the resized image; width None if only the short side is given.

    Args:
        values: the processor's settings.
        short_side: a plain number is the short side.
    """
    size = values.get("size")
    if isinstance(size, dict) and set(size) == {"shortest_edge"}:
        return both(size["shortest_edge"])[0], None
    height, width = both(size)
    return height, None if isinstance(size, int) and short_side else width


def both(size: Any) -> tuple[int | None, int | None]:
    """Return height and width of a size that is one number or a map; None where it is neither."""
    sides: Sequence[Any] = (size.get("height"), size.get("width")) if isinstance(size, dict) else (size, size)
    if all(isinstance(side, int) and not isinstance(side, bool) and side > 0 for side in sides):
        return sides[0], sides[1]
    return None, None


def refusal(spec: TeacherSpec, path: Path, what: str) -> InputError:
    return InputError(
        f"teacher '{spec.name}' is refused: {path.name} asks for {what}, which is not followed here; write a "
        "preprocessor_config.json without it beside the weights and give that folder as the teacher"
    )
