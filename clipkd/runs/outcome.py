"""What a run leaves: what it reached, and what it cost."""

from __future__ import annotations

import re
import resource
import statistics
import sys
from pathlib import Path
from typing import Any

import torch

from clipkd.core import device as devices
from clipkd.core.fingerprint import fingerprint
from clipkd.embeddings.teacher import Teacher
from clipkd.embeddings.zero_shot import zero_shot
from clipkd.runs.job import Job
from clipkd.runs.record import (
    FORMAT,
    CellNames,
    Chosen,
    Cost,
    Device,
    Metrics,
    Selected,
    TeacherCost,
    ZeroShot,
)
from clipkd.runs.teacher_targets import PrototypeTargets, TeacherTargets
from clipkd.spec.identities import names


def metrics(job: Job, source: TeacherTargets, student_parameters: int, last: Chosen, selected: Selected) -> Metrics:
    """Return what a run is and what it reached."""
    zero = zero_shot_of(job, source)
    return Metrics(
        format=FORMAT,
        fingerprint=fingerprint(job.identity),
        identity=job.identity,
        cell=CellNames(**names(job.cell)),
        epochs=job.numbers.epochs,
        classes=len(job.classes),
        train_images=len(job.images.rows),
        validation_images=len(job.labelled.validation) if job.cell.selection == "validation" else 0,
        **({"labelled_images": len(job.images.labelled)} if len(job.images.labelled) < job.images.count else {}),
        student_parameters=student_parameters,
        last=last,
        selected=selected,
        zero_shot=ZeroShot(**zero) if zero else None,
    )


def zero_shot_of(job: Job, source: TeacherTargets) -> dict[str, Any] | None:
    """Return the test accuracy of a CLIP teacher's own two towers; None where the teacher is no text tower."""
    if not isinstance(source, PrototypeTargets) or job.cell.method.control_of:
        return None
    return zero_shot(job.cell, job.layout, job.dataset, source.prototypes.cpu().numpy())


def cost(
    job: Job,
    teacher: Teacher | None,
    student_parameters: int,
    images: int,
    seconds: list[float],
    passes: int,
    side_by_side: int,
) -> Cost:
    """Return what a run cost.

    Args:
        job: what was trained.
        teacher: the teacher that ran during the training.
        student_parameters: weights-only memory, fp32, is the paper's measure.
        images: per epoch.
        seconds: of each epoch; of the time of students side by side, the run's share.
        passes: images that went through the teacher.
        side_by_side: students trained together; memory is that of all.
    """
    student_bytes, teacher_bytes = 4 * student_parameters, 4 * teacher.parameters if teacher else 0
    on_gpu = job.device.type == "cuda"
    source = "none" if job.cell.method.signal == "nothing" else job.cell.teacher_source
    return Cost(
        device=Device(**devices.describe(job.device)),
        side_by_side=side_by_side,
        seconds_per_epoch=[round(value, 4) for value in seconds],
        images_per_second=round(images / statistics.median(seconds), 2),
        images_per_epoch=images,
        teacher=TeacherCost(source=source, forward_passes=passes, weights_bytes=teacher_bytes),
        student_weights_bytes=student_bytes,
        weights_bytes=student_bytes + teacher_bytes,
        peak_memory_bytes=torch.cuda.max_memory_allocated(job.device) if on_gpu else peak_process_memory(),
        peak_memory_of="cuda" if on_gpu else "process",
    )


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
