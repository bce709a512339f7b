"""The end of a training: the last and the selected student measured, and the results written."""

from __future__ import annotations

import numpy as np

from clipkd.runs.evaluation import score, score_each, score_prototypes
from clipkd.runs.failure import failing, has_sound_inputs
from clipkd.runs.outcome import cost, metrics
from clipkd.runs.record import Chosen, RunRecord, Selected
from clipkd.runs.run import Run


def complete(run: Run) -> None:
    """Measure the students, and write the results, unless the run has failed."""
    parameters = sum(parameter.numel() for parameter in run.student.parameters())
    if not has_sound_inputs(run):
        return
    with failing(run, len(run.history)):
        last, selected, correct = measured(run)
    if run.failure or not has_sound_inputs(run):
        return
    run.result = metrics(run.job, run.source, parameters, last, selected)
    if run.ranks.is_first:
        images = run.steps_per_epoch * run.numbers.batch_size if run.recipe.drop_last else run.job.images.count
        teacher = run.source.teacher
        costs = cost(run.job, teacher, parameters, images, run.seconds, run.passes, run.largest_group)
        record = RunRecord(metrics=run.result, cost=costs, history=run.history)
        facts, settings = run.job.facts(), run.job.settings()
        run.folder.finish(run.selected_student, record, facts, settings, run.sittings, correct or None)
    if last.test and run.job.kept_by == "last":
        few = f"{run.result.validation_images} validation images are too few to choose another"
        reached = f"test top-1 {last.test.top1:.1%} (last epoch, which is kept: {few})"
    elif last.test and selected.test:
        reached = f"test top-1 {last.test.top1:.1%} (last epoch), {selected.test.top1:.1%} (selected epoch)"
    else:
        reached = "trained without labels; `clipkd evaluate` judges its embeddings (docs/few-labels.md)"
    run.say(f"{run.cell.folder}: {reached}")


def measured(run: Run) -> tuple[Chosen, Selected, dict[str, np.ndarray]]:
    """Measure the last student and the selected one on the test split; with `selection: test` it also chose.

    Returns:
        The two epochs, and for each which test images are classified correctly, bool [N].
    """
    assert run.best is not None
    epoch, found = run.best
    if not run.cell.has_labels:
        ended = len(run.history)
        return (
            Chosen(epoch=ended, test=None, validation=None),
            Selected(epoch=ended, by="none", test=None, validation=None),
            {},
        )
    held_out = run.recipe.selection == "validation"
    correct = {}
    test, correct["last"] = score_each(run)
    last = Chosen(
        epoch=len(run.history),
        test=test,
        validation=score(run, "validation") if held_out else None,
        nearest_prototype=score_prototypes(run),
    )
    end = {name: tensor.clone() for name, tensor in run.student.state_dict().items()}
    run.student.load_state_dict(run.selected_student)
    test, correct["selected"] = score_each(run)
    selected = Selected(
        epoch=epoch,
        by=run.job.kept_by,
        test=test,
        validation=found if held_out else None,
        nearest_prototype=score_prototypes(run),
    )
    run.student.load_state_dict(end)
    return last, selected, correct
