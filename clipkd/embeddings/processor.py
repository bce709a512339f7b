"""The image processor: how a checkpoint wants its images, read from its preprocessor_config.json.

transformers 5 may write it into processor_config.json instead, with the tokenizer's settings. Rules that are not
followed here are refused in words, never left out in silence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from clipkd.core.artifacts import Artifact
from clipkd.core.errors import DataError, InputError
from clipkd.core.files import read_json
from clipkd.data.pixels import normalised
from clipkd.embeddings.families import processor_defaults
from clipkd.plugins.teachers import NESTED_PROCESSOR, PROCESSOR, TeacherSpec

FILTERS = {2: "bilinear", 3: "bicubic"}
"""PIL's numbers of the filters that are followed."""
FOLLOWED = {"do_resize", "do_rescale", "do_normalize", "do_center_crop"}
"""Switches that are followed, on or off."""
HARMLESS = {"do_convert_rgb"}
"""Images are RGB here before a processor sees them."""
WARPED = 384
"""Side from which an image processor with `crop_pct` squeezes images instead of cropping them, in pixels."""
REFUSED = {"rescale_offset": "values around zero before normalisation"}
SWITCHES = {
    "do_pad": " (padding)",
    "do_reduce_labels": " (labels as images)",
    "do_thumbnail": " (thumbnails)",
    "do_align_long_axis": " (turned images)",
    "do_flip_channel_order": " (blue before red)",
}
"""Switches that mean something else than a change of all images; any other that is on is refused all the same."""


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
    is_centre_rounded: bool = False
    """Where a crop has an odd margin: torchvision rounds half of it to even, transformers down."""

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
        margins = [side - self.crop for side in pixels.shape[-2:]]
        top, left = (round(margin / 2) if self.is_centre_rounded else margin // 2 for margin in margins)
        return pixels[..., top : top + self.crop, left : left + self.crop]


def processor(spec: TeacherSpec, path: Path) -> Processor:
    """Return the image processor that a checkpoint's file describes.

    Raises:
        DataError: its file gives no size, mean or standard deviation, or others than the teacher is known with.
        InputError: it asks for something that is not followed here.
    """
    values = settings_of(path)
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


def processor_file(artifact: Artifact) -> Path:
    """Return the file of a fetched checkpoint that describes its image processor."""
    return artifact.file(NESTED_PROCESSOR if NESTED_PROCESSOR in artifact.manifest["files"] else PROCESSOR)


def settings_of(path: Path) -> dict[str, Any]:
    """Return the image processor's settings in a file; DataError where it holds none."""
    values = read_json(path)
    if path.name == NESTED_PROCESSOR:
        values = values.get("image_processor")
    if not isinstance(values, dict):
        raise DataError(f"{path} holds no settings of an image processor")
    return values


def read(spec: TeacherSpec, values: dict[str, Any], path: Path) -> Processor:
    """Return the processor that the values of a preprocessor_config.json describe."""
    # null: a switch is off, anything else has its default, as transformers has it
    values = {key: value for key, value in values.items() if value is not None or key.startswith("do_")}
    kind = str(values.get("image_processor_type") or values.get("feature_extractor_type") or "")
    defaults = processor_defaults(kind)
    for key, what in REFUSED.items():
        if values.get(key):
            raise refusal(spec, path, f"{key} ({what})")
    for key in values.keys() - FOLLOWED - HARMLESS:
        if key.startswith("do_") and values[key]:
            raise refusal(spec, path, f"{key}{SWITCHES.get(key, '')}")
    if not values.get("do_resize", True):
        raise refusal(spec, path, "do_resize: false (images as they come)")
    resample = values.get("resample", defaults.resample)
    if not isinstance(resample, int) or resample not in FILTERS:
        raise refusal(spec, path, f"resample: {resample} (known: 2, bilinear; 3, bicubic)")
    height, width = size_of(values, defaults.short_side)
    given = (values.get("image_mean"), values.get("image_std"))
    mean, std = (tuple(one) if isinstance(one, list | tuple) else () for one in given)
    if not values.get("do_normalize", True):
        mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    if height is None:
        raise DataError(f"{path} gives no input size (size: {values.get('size')})")
    for key, numbers in (("image_mean", mean), ("image_std", std)):
        if len(numbers) != 3 or not all(isinstance(one, int | float) for one in numbers):
            raise DataError(f"{path}: {key} is {values.get(key, 'not there')}, not three numbers")
    if not all(deviation > 0 for deviation in std):
        raise DataError(f"{path}: image_std is {list(std)}; a deviation is above 0")
    scale = scale_of(spec, values, path)
    mean, std = tuple(value / scale for value in mean), tuple(value / scale for value in std)
    if defaults.crop_pct is not None and width is None and not values.get("do_center_crop"):
        share = values.get("crop_pct", defaults.crop_pct)
        if not isinstance(share, int | float) or not 0 < share <= 1:
            raise DataError(f"{path}: crop_pct is {share!r}, not a number above 0, up to 1")
        return shares(share, height, FILTERS[resample], mean, std)
    if values.get("crop_pct"):
        raise refusal(spec, path, "crop_pct (a crop in percent)")
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


def shares(share: float, side: int, filter_: str, mean: tuple, std: tuple) -> Processor:
    """Return the processor of ConvNeXt and ResNet: the short side to `side` over `share` and a crop, or squeezed."""
    if side >= WARPED:
        return Processor(side, side, None, filter_, mean, std)
    return Processor(int(side / share), None, side, filter_, mean, std)


def scale_of(spec: TeacherSpec, values: dict[str, Any], path: Path) -> float:
    """Return what a white pixel is before normalisation: 1, or 255 where the processor does not rescale."""
    factor = values.get("rescale_factor", 1 / 255) if values.get("do_rescale", True) else 1
    if isinstance(factor, bool) or not isinstance(factor, int | float) or not factor > 0:
        raise refusal(spec, path, f"rescale_factor: {factor}")
    scale = float(factor) * 255
    return 1.0 if abs(scale - 1) < 1e-6 else scale


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
    is_short = not values["default_to_square"] if "default_to_square" in values else short_side
    return height, None if isinstance(size, int) and is_short else width


def both(size: Any) -> tuple[int | None, int | None]:
    """Return height and width of a size that is one number, a pair or a map; None where it is neither."""
    sides: Sequence[Any] = (size.get("height"), size.get("width")) if isinstance(size, dict) else (size, size)
    if isinstance(size, list):
        sides = size
    if len(sides) == 2 and all(isinstance(side, int) and not isinstance(side, bool) and side > 0 for side in sides):
        return sides[0], sides[1]
    return None, None


def refusal(spec: TeacherSpec, path: Path, what: str) -> InputError:
    return InputError(
        f"teacher '{spec.name}' is refused: {path.name} asks for {what}, which is not followed here; write a "
        f"{path.name} without it beside the weights and give that folder as the teacher"
    )
