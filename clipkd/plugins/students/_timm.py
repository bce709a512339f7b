"""Any timm model as a student: the pooled features before its classifier are the embedding."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from clipkd.core.errors import InputError, first_line, nearest
from clipkd.core.progress import say
from clipkd.plugins.students import TimmSpec
from clipkd.plugins.students._heads import Heads, Outputs, Widths


class TimmStudent(Heads):
    """A timm model without its classifier, and our heads on its features (see `Heads.add_heads`)."""

    def __init__(
        self, spec: TimmSpec, classes: int, target_width: Widths, projection: str, learnable_scale: bool
    ) -> None:
        super().__init__()
        self.spec = spec
        self.body = build(spec)
        self.add_heads(feature_width(self.body, spec), classes, target_width, projection, learnable_scale)

    def add_drop_path(self, rate: float) -> None:
        try:
            self.body = build(self.spec, drop_path_rate=rate)
        except InputError:  # without the option the model could be built, so it is the option that it lacks
            say(f"student '{self.spec.name}': {self.spec.model} has no drop path; {rate} is left out")
            return
        from timm.layers import DropPath

        for module in list(self.body.modules()):
            for name, child in module.named_children():
                if isinstance(child, DropPath):
                    setattr(module, name, SeededDropPath(child.drop_prob or 0.0, lambda: self.generators[0]))

    def forward(self, images: Tensor) -> Outputs:
        """Return embedding [B, W] and logits [B, C] of normalised images [B, 3, S, S]."""
        embedding = self.body(images).float()  # under autocast too: cosines and losses are of float32
        return Outputs(embedding, self.classifier(embedding).float())

    def no_weight_decay(self) -> set[str]:
        """Return the parameters that timm keeps from weight decay: positions, class tokens."""
        kept: set[str] = getattr(self.body, "no_weight_decay", set)()
        return {f"body.{name}" for name in kept}


class SeededDropPath(nn.Module):
    """timm's `DropPath`, drawn with the run's own generator, whose state a checkpoint keeps."""

    def __init__(self, rate: float, generator: Callable[[], torch.Generator | None]) -> None:
        super().__init__()
        self.rate, self.generator = rate, generator

    def forward(self, branch: Tensor) -> Tensor:
        """Return a branch [B, ...], in training 0 for some images and larger for the others."""
        if not self.training or not self.rate:
            return branch
        mask = branch.new_empty(len(branch), *[1] * (branch.ndim - 1))
        return branch * mask.bernoulli_(1 - self.rate, generator=self.generator()) / (1 - self.rate)


def build(spec: TimmSpec, **more: Any) -> nn.Module:
    """Return the timm model, fresh weights, its classifier left out.

    Raises:
        InputError: timm has no such model, or it does not take the student's input size.
    """
    from clipkd.core.timm import timm

    base = spec.model.split(".")[0]
    if not timm.is_model(base):
        raise InputError(f"student '{spec.name}': timm {timm.__version__} has no model '{base}'"
                         f"{nearest(base, timm.list_models())}")  # fmt: skip
    # Models with positions for each patch must be told their input size; the others take any.
    is_fixed = timm.models.get_pretrained_cfg_value(base, "fixed_input_size")
    options: dict[str, Any] = {"img_size": spec.image_size} if is_fixed else {}
    try:
        return timm.create_model(spec.model, pretrained=False, num_classes=0, **options, **more)
    except (AssertionError, RuntimeError, TypeError, ValueError, ZeroDivisionError) as error:
        raise InputError(does_not_fit(spec, error)) from None


def feature_width(body: nn.Module, spec: TimmSpec) -> int:
    """Return the dimensions W of a model's features, from what it gives for an image of the student's size."""
    was_training = body.training
    try:
        with torch.no_grad():
            features = body.eval()(torch.zeros(1, 3, spec.image_size, spec.image_size))
    except (AssertionError, RuntimeError, TypeError, ValueError) as error:
        raise InputError(does_not_fit(spec, error)) from None
    body.train(was_training)
    if not isinstance(features, Tensor) or features.ndim != 2:
        raise InputError(f"student '{spec.name}': {spec.model} does not pool its features to one vector per image")
    return features.shape[1]


def does_not_fit(spec: TimmSpec, error: Exception) -> str:
    """Return what to tell the user where a model can't be made for the student's input size."""
    return (
        f"student '{spec.name}': {spec.model} does not take images of {spec.image_size} pixels; "
        f"try timm:{spec.model}@{2 * spec.image_size} ({first_line(error)})"
    )
