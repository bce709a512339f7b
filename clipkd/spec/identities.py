"""What makes a run: everything that its numbers depend on. No torch here: training and tables both read this."""

from __future__ import annotations

from typing import Any

from clipkd.core.fingerprint import Identity, fingerprint
from clipkd.core.registry import origin
from clipkd.plugins import methods, recipes, students
from clipkd.plugins.teachers import SeveralTeachers
from clipkd.spec.cells import NO_TEACHER, Cell
from clipkd.spec.few_labels import labels_identity
from clipkd.spec.layout import Layout
from clipkd.spec.protocol import PROTOCOL
from clipkd.spec.selection import selection_identity
from clipkd.spec.settings import Hyperparameters
from clipkd.spec.views import DRAWN_PROTOCOL, REPLAY_PROTOCOL, REPLAY_SEED, live_identity
from clipkd.spec.views import PROTOCOL as VIEWS_PROTOCOL

SEVERAL_PROTOCOL = 1
"""Bumped when weighted or standardised teachers give other numbers."""
AXES = ("recipe", "dataset", "student", "teacher", "train_type", "seed", "teacher_source")


def names(cell: Cell) -> dict[str, Any]:
    """Return a cell's place in the grid, in words that open it again."""
    return {axis: getattr(cell, axis) for axis in AXES} | {"teacher": cell.teacher_of_seed}


def keys(cell: Cell) -> dict[str, Any]:
    """Return a cell's place in the grid, the same however its names are typed and wherever its files lie."""
    teacher = cell.teacher_spec
    return names(cell) | {"student": cell.student_spec.name, "teacher": teacher.name if teacher else NO_TEACHER}


def run_identity(cell: Cell, numbers: Hyperparameters, layout: Layout, content: str, ranks: int = 1) -> Identity:
    """Return what makes a run: equal identities give equal students on one machine.

    Args:
        cell: the run's place in the grid.
        numbers: its hyperparameters.
        layout: says which artefacts the teacher's part comes from.
        content: the digest of the dataset's bytes.
        ranks: processes that train the student together.
    """
    spec = cell.dataset_spec
    thumbnails = layout.thumbnails(spec, cell.student_spec.image_size)[1] if spec.has_thumbnails else None
    return {
        "cell": keys(cell),
        "training": numbers.model_dump() | ({"ranks": ranks} if ranks > 1 else {}),
        "recipe": recipes.get(cell.recipe).switches(),  # what `auto` is follows from the rest
        "student": cell.student_spec.identity(),
        "dataset": spec.identity() | {"content": content} | spec.training_identity(),
        "thumbnails": thumbnails,
        "signal": signal_identities(cell, layout),
        "protocol": PROTOCOL,
        **views_identity(cell, layout),
        **method_identity(cell),
        **outside_identity(cell),
        **several_identity(cell),
        **labels_identity(cell.few_labels, cell.has_labels),
        **selection_identity(cell.selection, cell.few_labels),
    }


def views_identity(cell: Cell, layout: Layout) -> Identity:
    """Return what a run's identity says about views, beside what stored embeddings say.

    The views that it is limited to, where no embeddings of them are stored; or that one vector stands for all.
    """
    if cell.has_one_view:
        return {"views": {"one_vector_for_every_view": True}}
    if cell.teacher_source != "replayed" or cell.method.is_per_image:
        return {}
    drawn = {"drawn_protocol": DRAWN_PROTOCOL} if cell.draws_views else {"replay_protocol": REPLAY_PROTOCOL}
    return {"views": {"replays": layout.views, "seed": REPLAY_SEED, "protocol": VIEWS_PROTOCOL} | drawn}


def method_identity(cell: Cell) -> Identity:
    """Return what a train type whose numbers have changed adds to an identity; nothing in its first form."""
    protocol = cell.method.protocol
    return {"method": {"protocol": protocol}} if protocol > 1 else {}


def outside_identity(cell: Cell) -> Identity:
    """Return which other distributions add a cell's student and train type: two may use one name for two things."""
    found = {
        "student": origin(students.__name__, cell.student),
        "train_type": origin(methods.__name__, cell.method.control_of or cell.train_type),
    }
    found = {axis: name for axis, name in found.items() if name}
    return {"plugins": found} if found else {}


def several_identity(cell: Cell) -> Identity:
    """Return how several teachers are combined; nothing where they are taken as they are, the same for each."""
    spec = cell.teacher_spec
    if not isinstance(spec, SeveralTeachers) or not (spec.weights or spec.standardise):
        return {}
    return {
        "several": {"shares": list(spec.shares or ()), "standardise": spec.standardise, "protocol": SEVERAL_PROTOCOL}
    }


def as_settings(identity: Identity, settings: Identity) -> Identity:
    """Return a run's identity without what settings leave open: the dataset's bytes, what `precision: auto` means."""
    training = dict(identity["training"])
    if settings["training"]["precision"] == "auto":
        training["precision"] = "auto"
    return identity | {"training": training, "dataset": identity["dataset"] | {"content": ""}}


def agree(identity: Identity, settings: Identity) -> bool:
    """Return whether a run's identity is that of its settings, whatever the settings leave open."""
    return fingerprint(as_settings(identity, settings)) == fingerprint(settings)


def signal_identities(cell: Cell, layout: Layout) -> dict[str, Any]:
    """Return kind -> identity of each artefact that the teacher's signal comes from; of several, by teacher."""
    if len(cell.by_teacher) > 1:
        members = zip(cell.teacher_specs, cell.by_teacher, strict=True)
        return {spec.name: signal_identities(one, layout) for spec, one in members}
    asked, source, teacher = cell.method.signal, cell.teacher_source, cell.teacher_spec
    if asked == "nothing" or teacher is None:
        return {}
    if asked == "prototypes":
        return {"prototypes": layout.prototypes(cell)[1]}
    found: dict[str, Identity] = {}
    if source == "replayed":
        found["embeddings"] = layout.replayed_embeddings(cell).identity
    elif source == "cached":
        found["embeddings"] = layout.full_embeddings(cell).identity
    elif source in {"live", "lazy"}:
        found["teacher"] = live_identity(teacher, layout.precision) | presented_identity(cell)
    if asked == "scores":
        found["head"] = layout.head(cell)[1]
    return found


def presented_identity(cell: Cell) -> Identity:
    """Return what a recipe that mixes whose view and whose normalisation adds to a live teacher's identity.

    Older versions took both from one side: runs of such a recipe had other targets.
    """
    recipe = cell.recipe_spec
    is_mixed = (recipe.teacher_view == "native") != (recipe.teacher_normalisation == "teacher")
    return {"normalisation": recipe.teacher_normalisation} if is_mixed and not cell.draws_views else {}
