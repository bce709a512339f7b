"""The models that the installed timm and torchvision have, by name."""

from __future__ import annotations

from collections.abc import Iterable

from clipkd.core.errors import InputError, nearest
from clipkd.plugins.teachers import LibraryTeacher, TeacherSpec, TrainedCNN


def check(spec: TeacherSpec) -> None:
    """Raise InputError where a teacher is named by a model, or published weights, that its library does not have."""
    if isinstance(spec, TrainedCNN):
        check_timm(spec, spec.model)
    elif isinstance(spec, LibraryTeacher):
        (check_timm if spec.library == "timm" else check_torchvision)(spec, spec.model, spec.tag)


def check_timm(spec: TeacherSpec, model: str, tag: str = "") -> None:
    """Raise InputError where timm has no such model, or no weights of this tag."""
    from clipkd.core.timm import timm

    who = f"teacher '{spec.name}': timm {timm.__version__}"
    if not timm.is_model(model):
        raise InputError(f"{who} has no model '{model}'{nearest(model, timm.list_models())}")
    if tag:
        tags = [name.partition(".")[2] for name in timm.list_models(f"{model}.*", pretrained=True)]
        check_tag(f"{who} has no weights '{model}.{tag}'", tag, filter(None, tags))


def check_torchvision(spec: TeacherSpec, model: str, tag: str = "") -> None:
    """Raise InputError where torchvision has no such classification model, or no weights of this tag."""
    from clipkd.core.vision import torchvision

    models = torchvision.models.list_models(module=torchvision.models)
    who = f"teacher '{spec.name}': torchvision {torchvision.__version__}"
    if model not in models:
        raise InputError(f"{who} has no classification model '{model}'{nearest(model, models)}")
    if tag:
        tags = [weights.name for weights in torchvision.models.get_model_weights(model)]
        check_tag(f"{who} has no weights '{model}.{tag}'", tag, tags)


def check_tag(problem: str, tag: str, tags: Iterable[str]) -> None:
    """Raise InputError where a tag is none of a model's."""
    known = list(tags)
    if tag not in known:
        raise InputError(f"{problem}{nearest(tag, known)} (known: {', '.join(known)})")
