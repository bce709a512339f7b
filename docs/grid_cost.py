"""Write the estimated cost of the full grid into docs/paper-grid.md: `python docs/grid_cost.py [--check]`.

Counts come from config/config.yaml through clipkd.spec.cells and clipkd.spec.layout, floating-point operations from the
networks' sizes, and speeds from the records in benchmarks/results. Without that of a GPU its speeds are assumptions.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from generated import ROOT, main
from performance import kind_of, measured, name_of

from clipkd.core.flops import vit_flop
from clipkd.spec.cells import Cell, cacheable
from clipkd.spec.config import load
from clipkd.spec.grid import expand
from clipkd.spec.layout import Layout
from clipkd.spec.views import Sample
from clipkd.workflow import stamps
from clipkd.workflow.estimates import TEACHER_LAYERS, student_forward, teacher_forward

SIZES = {"cifar10": (50_000, 10_000), "cifar100": (50_000, 10_000), "imagenet": (1_281_167, 50_000)}
"""Training and test images."""
PACKED = {"cifar10": 3 * 32 * 32, "cifar100": 3 * 32 * 32, "imagenet": 3 * 256 * 341}
"""Bytes of a packed image (ImageNet: short side 256 px, the other on average 4/3 of it)."""
STUDENTS, LIVE = "students", "live teachers beside them"
TEACHER_SHAPES = {"vit-b16": (768, 12, 224, 16)}
"""Teacher of the benchmarks -> width, layers, image side and patch."""
ARCHIVE = {"cifar10": 170e6, "cifar100": 169e6, "imagenet": 0}


@dataclass(frozen=True)
class Speed:
    """Operations per second that a machine sustains."""

    title: str
    """Head of its column."""
    teachers: float
    students: float


MODELLED = Speed("GPU-hours, modelled", 10e12, 5e12)
"""Assumed, in fp32: large matrices, and a small network at batch 64."""


def speeds() -> list[Speed]:
    """Return the speed of a GPU, measured where there is a record of one, and of each processor measured."""
    gpus, processors = [], []
    for record in measured():
        if "gpu" in record and {"students", "teachers"} <= record["gpu"].keys():
            part = record["gpu"]
            name = f"GPU-hours, measured on {name_of(part)}"
            gpus.append(Speed(name, max(part["teachers"].values()) * 1e12, part["students"]["default"] * 1e12))
        elif kind_of(record) == "cpu" and {"distillation", "teacher_cost"} <= record.keys():
            step, cost = record["distillation"], record["teacher_cost"]
            teacher = vit_flop(*TEACHER_SHAPES[cost["teacher"]]) / cost["cpu_s_per_pass"]
            student = step["embed-KD"]["clipkd, cached"]["images_per_cpu_second"] * step["gflop_per_image"] * 1e9
            processors.append(Speed(f"core-hours, measured on {name_of(step)}", teacher, student))
    return [*(gpus or [MODELLED]), *processors]


def parameters(width: int, layers: int) -> int:
    """Return a ViT's parameters, those of its layers' matrices: nearly all."""
    return 12 * width**2 * layers


def training_images(cell: Cell) -> int:
    """Return the images of an epoch: without those that are held out, where validation selects."""
    held_out = cell.recipe_spec.selection == "validation"
    return round(SIZES[cell.dataset][0] * (1 - cell.dataset_spec.validation_fraction * held_out))


def evaluated_images(cell: Cell) -> int:
    """Return the images that are evaluated after an epoch."""
    train, test = SIZES[cell.dataset]
    return test if cell.recipe_spec.selection == "test" else round(train * cell.dataset_spec.validation_fraction)


@dataclass
class Work:
    """A sum of extractions or trainings."""

    count: int = 0
    images: float = 0.0
    operations: float = 0.0

    def add(self, images: float, operations: float) -> None:
        self.count, self.images, self.operations = self.count + 1, self.images + images, self.operations + operations


def hours(work: dict[str, Work], speed: Speed) -> dict[str, float]:
    """Return the hours that each stage takes at a speed."""
    return {
        name: part.operations / (speed.students if name.startswith(STUDENTS) else speed.teachers) / 3600
        for name, part in work.items()
    }


def stores(cells: list[Cell], layout: Layout) -> dict[Path, tuple[Cell, bool]]:
    """Return each embeddings folder once: a cell that asks for it, and whether it holds every image."""
    found = {}
    for cell in cells:
        if cell.method.signal == "prototypes":
            found[layout.sample_embeddings(cell).folder] = (cell, False)
        elif cell.method.signal == "scores" or (cell.method.signal == "embeddings" and cell.teacher_source == "cached"):
            found[layout.full_embeddings(cell).folder] = (cell, True)
    return found


def passes(cell: Cell, full: bool, layout: Layout) -> int:
    """Return the teacher's forward passes for one store."""
    train, test = SIZES[cell.dataset]
    if not full:
        return layout.sample.per_class * int(cell.dataset_spec.classes or 0)
    return train * (2 if cell.dataset_spec.augmentation == "flip" else 1) + test


def estimate(cells: list[Cell], layout: Layout) -> dict[str, Work]:
    """Return the work of each stage."""
    work: dict[str, Work] = defaultdict(Work)
    for cell, full in stores(cells, layout).values():
        spec, images = cell.teacher_spec, passes(cell, full, layout)
        assert spec is not None
        work[f"extract, {spec.title}"].add(images, images * teacher_forward(spec))
    for cell in cells:
        images, per_image = training_images(cell) * cell.epochs, student_forward(cell.student_spec)
        operations = 3 * images * per_image + evaluated_images(cell) * cell.epochs * per_image
        work[f"{STUDENTS}, {cell.student}"].add(images, operations)
        if cell.teacher_source == "live" and cell.teacher_spec:
            work[LIVE].add(images, images * teacher_forward(cell.teacher_spec))
    return work


def disk(cells: list[Cell], layout: Layout) -> dict[str, float]:
    """Return bytes on disk of each kind of artefact."""
    size: dict[str, float] = defaultdict(float)
    for dataset in sorted({cell.dataset for cell in cells}):
        size["datasets"] += sum(SIZES[dataset]) * PACKED[dataset] + ARCHIVE[dataset]
    # Of an image that is as much wider than high as a packed one.
    for dataset, side in sorted(
        {(c.dataset, c.student_spec.image_size) for c in cells if c.dataset_spec.has_thumbnails}
    ):
        size["thumbnails"] += sum(SIZES[dataset]) * PACKED[dataset] * (side / 256) ** 2
    for teacher in {cell.teacher: cell.teacher_spec for cell in cells if cell.teacher_spec}.values():
        width = int(teacher.hidden_size or 0) if teacher else 0
        size["teachers"] += 2 * 4 * parameters(width, TEACHER_LAYERS[width])  # also in the Hugging Face cache
    for cell, full in stores(cells, layout).values():
        images, width = passes(cell, full, layout), cell.teacher_spec.hidden_size if cell.teacher_spec else 0
        size["embeddings"] += images * int(width or 0) * 2
    for cell in cells:
        size["students"] += 4 * parameters(cell.student_spec.width, cell.student_spec.layers)
    return size


def rows(work: dict[str, Work], machines: list[Speed]) -> list[str]:
    taken = [hours(work, speed) for speed in machines]
    heads = " | ".join(speed.title for speed in machines)
    lines = [f"| work | stores or runs | images | GFLOP per image | {heads} |", "|---|" + "---:|" * (3 + len(machines))]
    for name, part in work.items():
        per_image = part.operations / part.images / 1e9
        each = " | ".join(f"{one[name]:,.1f}" for one in taken)
        lines.append(f"| {name} | {part.count} | {part.images / 1e6:,.2f} M | {per_image:,.2f} | {each} |")
    totals = " | ".join(f"**{sum(one.values()):,.0f}**" for one in taken)
    return [*lines, f"| **total** | | | | {totals} |"]


def block() -> str:
    """Return the block of docs/paper-grid.md."""
    config = load([ROOT / "config/config.yaml"])
    layout = Layout(Path("data"), config.embeddings.dtype, Sample(config.prototypes.per_class, config.prototypes.seed))
    cells, _ = expand(config)
    work, size = estimate(cells, layout), disk(cells, layout)
    everything, _ = expand(config.model_copy(update={"sources": config.sources | {"imagenet": "a folder"}}))
    imagenet = [cell for cell in everything if cell.dataset == "imagenet"]
    more, more_size = estimate(imagenet, layout), disk(imagenet, layout)
    machines = speeds()
    gpu = machines[0]
    more_hours, live_hours = sum(hours(more, gpu).values()), hours(more, gpu)[LIVE]
    how = "modelled" if gpu is MODELLED else "measured"
    would_be_live = sum(
        training_images(cell) * cell.epochs * teacher_forward(cell.teacher_spec) / gpu.teachers / 3600
        for cell in cells
        if cell.teacher_spec and cell.method.signal in {"embeddings", "scores"} and cacheable(cell)
    )
    jobs = len(stamps.jobs(cells, config, layout, config.training.stack))
    gigabytes = ", ".join(f"{name} {bytes_ / 1e9:.1f}" for name, bytes_ in size.items())
    return "\n".join(
        [
            f"Without ImageNet, `config/config.yaml` defines {len(cells)} runs on CIFAR10 and CIFAR100, trained by "
            f"{jobs} jobs. Hours on a GPU are {how}, those on a processor are of one core:",
            "",
            *rows(work, machines),
            "",
            f"Disk, in GB: {gigabytes}; about {sum(size.values()) / 1e9:.0f} in total.",
            "",
            f"If all vanilla and teacher-KD runs above used a live teacher, the teachers alone would take about "
            f"{would_be_live:,.0f} GPU-hours ({how}).",
            "",
            f"ImageNet adds {len(imagenet)} runs, about {more_hours:,.0f} GPU-hours ({how}) and "
            f"{sum(more_size.values()) / 1e9:,.0f} GB, of which {more_size['datasets'] / 1e9:,.0f} GB are its packed "
            f"images and {more_size['thumbnails'] / 1e9:,.0f} GB their thumbnails. Live teachers take "
            f"{live_hours:,.0f} of these hours: random crops cannot be stored exactly, so teacher-KD and vanilla run "
            f"the teacher in every step. For ImageNet you will probably want fewer seeds, teachers or epochs.",
        ]
    )


if __name__ == "__main__":
    sys.exit(main(ROOT / "docs/paper-grid.md", "cost", block(), str(__doc__)))
