"""What a run leaves: its results, and what they cost."""

from __future__ import annotations

import re
import resource
import statistics
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from clipkd.core import device as devices
from clipkd.embeddings.zero_shot import zero_shot
from clipkd.runs.nearest import nearest_prototype
from clipkd.runs.signals import Prototypes
from clipkd.spec.identities import names

if TYPE_CHECKING:
    from clipkd.runs.run import Run


def metrics(run: Run) -> dict[str, Any]:
    """Return the run's results. The test split is measured here; with `selection: test` it also chose."""
    held_out = run.recipe.selection == "validation"
    last = {
        "epoch": len(run.history),
        "test": run.score("test"),
        "validation": run.score("validation") if held_out else None,
        "nearest_prototype": score_prototypes(run),
    }
    end = {name: tensor.clone() for name, tensor in run.student.state_dict().items()}
    run.student.load_state_dict(run.selected_student)
    selected = {
        "epoch": run.selected["epoch"],
        "by": run.recipe.selection,
        "test": run.score("test"),
        "validation": run.selected["score"] if held_out else None,
        "nearest_prototype": score_prototypes(run),
    }
    run.student.load_state_dict(end)
    return {
        "fingerprint": run.fingerprint,
        "identity": run.job.identity,
        "cell": names(run.cell),
        "epochs": run.numbers.epochs,
        "classes": len(run.job.dataset.classes),
        "train_images": run.batches.count,
        "student_parameters": run.student_parameters(),
        "last": last,
        "selected": selected,
        "zero_shot": zero_shot_of(run),
    }


def score_prototypes(run: Run) -> dict[str, float] | None:
    """Return the student's test accuracy by its nearest class prototype; None without prototypes."""
    return nearest_prototype(run.student, run.evaluation("test"), run.signal, run.recipe)


def zero_shot_of(run: Run) -> dict[str, Any] | None:
    """Return the test accuracy of a CLIP teacher's own two towers; None where the teacher is no text tower."""
    if not isinstance(run.signal, Prototypes) or run.cell.method.control_of:
        return None
    return zero_shot(run.cell, run.job.layout, run.job.dataset, run.signal.prototypes.cpu().numpy())


def cost(run: Run) -> dict[str, Any]:
    """Return what the run cost: of the time of students side by side, its share; of their memory, all.

    Weights-only memory, fp32, is the paper's measure.
    """
    images = run.steps_per_epoch * run.numbers.batch_size if run.recipe.drop_last else run.batches.count
    teacher_bytes = 4 * run.signal.teacher.parameters if run.signal.teacher else 0
    student_bytes = 4 * run.student_parameters()
    on_gpu = run.job.device.type == "cuda"
    source = "none" if run.cell.method.signal == "nothing" else run.cell.teacher_source
    return {
        "device": devices.describe(run.job.device),
        "side_by_side": run.companions,
        "seconds_per_epoch": [round(seconds, 4) for seconds in run.seconds],
        "images_per_second": round(images / statistics.median(run.seconds), 2),
        "images_per_epoch": images,
        "teacher": {"source": source, "forward_passes": run.passes, "weights_bytes": teacher_bytes},
        "student_weights_bytes": student_bytes,
        "weights_bytes": student_bytes + teacher_bytes,
        "peak_memory_bytes": torch.cuda.max_memory_allocated() if on_gpu else peak_process_memory(),
        "peak_memory_of": "cuda" if on_gpu else "process",
    }


def peak_process_memory() -> int:
    """Return the largest resident size that this process has had, in bytes.

    On Linux not by `getrusage`: a process that another one started begins there with the other one's peak.
    """
    status = Path("/proc/self/status")
    if status.exists():
        found = re.search(r"^VmHWM:\s*(\d+) kB", status.read_text(encoding="utf-8"), re.MULTILINE)
        if found:
            return int(found.group(1)) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
