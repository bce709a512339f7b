"""Write the benchmark results into docs/performance.md: `python docs/performance.py [--check]`."""

from __future__ import annotations

import json
import statistics
import sys
from typing import Any

from generated import ROOT, main

RESULTS = ROOT / "benchmarks/results"
TITLES = {"vit-b16": "ViT-B/16"}
CIFAR_TRAIN, CIFAR_TEST = 50_000, 10_000
FORMATS = ("fp32", "bf16")
TYPES = ("embed-KD", "teacher-KD", "vanilla")
DEFAULT = "clipkd, cached, bf16"
"""What `precision: auto` is on a processor that multiplies in bfloat16."""
NAMES = {
    "peer": "released protocol's loop",
    "timm": "a timm ViT in that loop",
    "transformers": "a transformers ViT in that loop",
}
"""Contender -> what it is."""


def measured() -> list[dict[str, Any]]:
    """Return the record of each machine."""
    records = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(RESULTS.glob("*.json"))]
    return [record for record in records if record.keys() & PARTS.keys()]


def origin(part: dict[str, Any]) -> str:
    """Return where, when and how a part of the results was measured."""
    machine = part["machine"]
    device, torch = machine["device"], machine["packages"]["torch"]
    return (
        f"{name_of(part)}, {device['threads']} thread, torch {torch}, Python {machine['python']}, {part['date']}, "
        f"`{part['command']}`"
    )


def name_of(part: dict[str, Any]) -> str:
    """Return the name of the processor or GPU; of a processor its family and model too, where the record has them."""
    machine = part["machine"]
    processor = machine.get("processor", {})
    more = ", ".join(f"{key} {processor[key]}" for key in ("family", "model") if key in processor)
    return machine["device"]["name"] + (f" ({more})" if more and machine["device"]["kind"] == "cpu" else "")


def ranges(records: list[dict[str, Any]]) -> str:
    """Return how much longer the others' steps take, from the lowest to the highest of the processors' medians."""
    parts = [record["distillation"] for record in records if "distillation" in record]
    found: dict[tuple[str, str], list[float]] = {}
    for part in parts:
        for train_type in TYPES:
            for name, entry in part[train_type].items():
                if name == DEFAULT:
                    continue
                if name != "clipkd, cached":
                    found.setdefault((train_type, name), []).append(entry["cpu_ratio"])
                if DEFAULT in part[train_type] and not name.startswith("clipkd"):
                    ratio = entry["cpu_ratio"] / part[train_type][DEFAULT]["cpu_ratio"]
                    found.setdefault((f"{train_type}, clipkd in bf16", name), []).append(ratio)
    lines = ["| train type | contender | CPU time of a step / clipkd's | processors |", "|---|---|---:|---:|"]
    for (train_type, name), ratios in found.items():
        ratios.sort()
        span = f"{ratios[0]:.2f}" if len(ratios) == 1 else f"{ratios[0]:.2f} to {ratios[-1]:.2f}"
        lines.append(f"| {train_type} | {NAMES.get(name, name)} | {span} | {len(ratios)} |")
    names = "; ".join(name_of(part) for part in parts)
    caption = (
        f"Medians of rounds, clipkd with stored embeddings = 1; measured on {names}. They are properties of code and "
        "processor: on another one, of the same displayed name too, they differ. `make bench` adds the record of yours."
        " Where the processor multiplies in bf16, this is the default, but for recipe `reference`; the "
        "others compute in float32, as they do by default."
    )
    return caption + "\n\n" + "\n".join(lines)


def products(result: dict[str, Any]) -> str:
    """Return the speed of each matrix product of a student by library."""
    part = result["products"]
    libraries = [name for name in ("mkl", "blas", "onednn") if name in next(iter(part["products"].values()))]
    names = {"mkl": "MKL", "blas": "torch's `@`", "onednn": "oneDNN"}
    lines = [f"| {part['student']}, batch {part['batch_size']} | {' | '.join(names[one] for one in libraries)} |"]
    lines.append("|---|" + "---:|" * len(libraries))
    for name, entry in part["products"].items():
        lines.append(f"| {name} | {' | '.join(f'{entry[one]:.0f}' for one in libraries)} |")
    flags = ", ".join(part["machine"]["processor"].get("flags", [])) or "none of those listed"
    taken = ", ".join(part["taken from oneDNN"]) or "nothing"
    return (
        f"GFLOP/s in float32, one thread; instructions: {flags}; clipkd takes {taken} from oneDNN; "
        f"{origin(part)}.\n\n" + "\n".join(lines)
    )


def training_table(result: dict[str, Any]) -> str:
    """Return the table of steps: one row a train type and contender."""
    distillation = result["distillation"]
    peak, work = distillation["matrix_peak_gflops"], distillation["gflop_per_image"]
    lines = [
        "| train type | contender | CPU-s per step | lowest to highest | images per CPU-s | of torch's `@` | ratio |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for train_type in TYPES:
        for name, entry in distillation[train_type].items():
            spread = f"{entry['cpu_s_lowest']:.2f} to {entry['cpu_s_highest']:.2f}"
            has_teacher = name == "clipkd, live" or (name == "peer" and train_type != "embed-KD")
            share = "\N{EN DASH}" if has_teacher else f"{entry['images_per_cpu_second'] * work / peak:.0%}"
            lines.append(
                f"| {train_type} | {NAMES.get(name, name)} | {entry['cpu_s']:.2f} | {spread} "
                f"| {entry['images_per_cpu_second']:.1f} | {share} | {entry['cpu_ratio']:.2f} |"
            )
    return "\n".join(lines)


def teacher_cost(result: dict[str, Any]) -> str:
    """Return the cost of the teacher for CIFAR, from the measured pass and step."""
    cost, distillation = result["teacher_cost"], result["distillation"]["teacher-KD"]
    teacher, steps = TITLES.get(cost["teacher"], cost["teacher"]), CIFAR_TRAIN / cost["batch_size"]
    passes = 2 * CIFAR_TRAIN + CIFAR_TEST
    extraction = passes * cost["cpu_s_per_pass"] / 3600
    cached, live = (distillation[f"clipkd, {source}"]["cpu_s"] * steps / 3600 for source in ("cached", "live"))
    stored = passes * cost["bytes_per_view"]
    check = stored / cost["checked_bytes_per_second"]
    lines = [
        f"| {teacher} on CIFAR (50,000 images), student {cost['student']}, one thread | |",
        "|---|---:|",
        f"| one teacher pass (measured) | {cost['cpu_s_per_pass']:.3f} CPU-s |",
        f"| extraction (once): 2 views per image, and the test split, {passes:,} passes | {extraction:.1f} CPU-h |",
        f"| one epoch of teacher-KD with the live teacher, {CIFAR_TRAIN:,} passes | {live:.1f} CPU-h |",
        f"| one epoch of teacher-KD with stored embeddings, 0 passes | {cached:.2f} CPU-h |",
        f"| extraction breaks even after | {extraction / (live - cached):.1f} epochs |",
        f"| 200 epochs: live / stored including extraction | {200 * live / (200 * cached + extraction):.1f} times |",
        f"| size of the store, {cost['dtype']}, {cost['dimensions']} dimensions | {stored / 1e6:.0f} MB |",
        f"| checking every stored byte (once per machine) | {check:.2f} s, {check / (cached * 3600):.3%} of an epoch |",
    ]
    return "\n".join(lines)


def data_path(result: dict[str, Any]) -> str:
    """Return the table of the data path of ImageNet-sized images."""
    path = result["data_path"]
    width, height = path["image"]
    lines = [
        f"| random crops of {width} x {height} images for a {path['side']} px student | images per CPU-s "
        "| lowest to highest | images per s | ratio (CPU) |",
        "|---|---:|---:|---:|---:|",
    ]
    for name, entry in path.items():
        if isinstance(entry, dict) and "images_per_cpu_s" in entry:
            spread = f"{entry['images_per_cpu_s_lowest']:,} to {entry['images_per_cpu_s_highest']:,}"
            lines.append(
                f"| {name} | {entry['images_per_cpu_s']:,} | {spread} | {entry['images_per_s']:,} "
                f"| {entry['images_per_cpu_s_ratio']:.1f} |"
            )
    return f"{origin(path)}.\n\n" + "\n".join(lines)


def grid(result: dict[str, Any]) -> str:
    """Return the time of a grid of students on all cores."""
    part = result["grid"]
    lines = [
        f"{part['students']} students of embed-KD, {part['steps']} steps each, on {part['cores']} cores; "
        f"{origin(part)}.",
        "| contender | wall s | ratio |\n|---|---:|---:|",
    ]
    for name, seconds in part["wall_s"].items():
        ratio = 1.0 if name.startswith("clipkd") else part["wall_ratio"]
        lines[-1] += f"\n| {name} | {seconds:.1f} | {ratio:.2f} |"
    return "\n\n".join(lines)


def memory(result: dict[str, Any]) -> str:
    """Return the peak memory of a training process."""
    part = result["memory"]
    rows = "\n".join(f"| {name} | {size / 1e6:.0f} |" for name, size in part["bytes"].items())
    return f"Peak memory of a process; {origin(part)}.\n\n| process | MB |\n|---|---:|\n{rows}"


def stack(result: dict[str, Any]) -> str:
    """Return the time of an epoch of CIFAR's size on a GPU."""
    part = result["stack"]
    peaks = ", ".join(f"{name} {peak / 1000:.0f} TFLOP/s" for name, peak in part["matrix_peak_gflops"].items())
    lines = [
        "| contender | s per epoch and student | images/s | of torch's `@` | peak memory, GB | ratio to the peer |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name, entry in part["epochs"].items():
        peak = "\N{EN DASH}" if entry["peak_memory_bytes"] is None else f"{entry['peak_memory_bytes'] / 1e9:.2f}"
        lines.append(
            f"| {name} | {entry['seconds_per_epoch']:.2f} | {entry['images_per_second']:,.0f} | {entry['of_peak']:.0%} "
            f"| {peak} | {entry['ratio']:.1f} |"
        )
    return f"{part['images']:,} images per epoch; {origin(part)}; torch's own `@`: {peaks}.\n\n" + "\n".join(lines)


def session(result: dict[str, Any]) -> str:
    """Return what one session on a GPU measured (`make bench-gpu`), and what it did not."""
    part = result["gpu"]
    lines = [f"{part['student']}, recipe reference, embed-KD, batch size 64; {origin(part)}."]
    heads = {
        "seconds_per_epoch": ("s per epoch of CIFAR and student", "s"),
        "ms_per_step_and_student": ("students at once, bf16", "ms per step and student"),
        "batches_seconds_per_epoch": ("an epoch's batches alone, CIFAR's images", "s"),
        "seconds_per_10k": ("evaluation of 10,000 images by one student", "s"),
        "images_per_second": ("teacher's forward pass", "images/s"),
        "peak_tflops": ("torch's `@`", "TFLOP/s"),
    }
    for key, (head, unit) in heads.items():
        if key in part:
            rows = "\n".join(f"| {name} | {value:,} |" for name, value in part[key].items())
            lines.append(f"| {head} | {unit} |\n|---|---:|\n{rows}")
    if "tests" in part:
        code = part["tests"].get("exit_code")
        ended = part["tests"]["not_run"] if code is None else "passed" if code == 0 else f"failed (exit code {code})"
        lines.append(f"Tests on this GPU: {ended}.")
    missing = [*part["failed"], *part["not_begun"]]
    if missing:
        lines.append(f"Not measured: {', '.join(missing)}.")
    return "\n\n".join(lines)


def precision(result: dict[str, Any]) -> str:
    """Return how accurate students are in bfloat16."""
    part = result["precision"]
    lines = [
        f"| train type | {' | '.join(FORMATS)} | bf16 - fp32, paired by seed | n |",
        "|---|---:|---:|---:|---:|",
    ]
    for train_type, formats in part["top1"].items():
        means = [
            f"{statistics.mean(top1):.2f} ± {statistics.stdev(top1):.2f}" for top1 in map(formats.__getitem__, FORMATS)
        ]
        paired = part["difference"][train_type]
        lines.append(
            f"| {train_type} | {' | '.join(means)} | {paired['mean']:+.2f} ± {paired['deviation']:.2f} "
            f"| {len(formats['fp32'])} |"
        )
    caption = (
        f"Test top-1, digits, {part['student']}, recipe corrected, {part['epochs']} epochs, mean ± sample standard "
        f"deviation over seeds; {origin(part)}."
    )
    return caption + "\n\n" + "\n".join(lines)


def training(result: dict[str, Any]) -> str:
    """Return the steps of each contender, and the cost of the live teacher."""
    part = result["distillation"]
    ratios = {
        contender: " and ".join(
            f"{part[name][contender]['cpu_ratio']:.1f} ({name})" for name in ("teacher-KD", "vanilla")
        )
        for contender in ("peer", "clipkd, live")
    }
    return "\n\n".join(
        [
            f"{origin(part)}; torch's own fp32 matrix product, `@`, {part['matrix_peak_gflops']:.0f} GFLOP/s.",
            training_table(result),
            f"A step of the peer, with the live transformers teacher, takes {ratios['peer']} times the CPU time of a "
            f"step with stored embeddings; with the live teacher at clipkd's speed, {ratios['clipkd, live']} times.",
        ]
    )


PARTS = {
    "products": ("Matrix products", products),
    "distillation": ("A step", training),
    "teacher_cost": ("The teacher", teacher_cost),
    "grid": ("Students on all cores", grid),
    "memory": ("Memory", memory),
    "stack": ("One student and a stack", stack),
    "gpu": ("A session", session),
    "precision": ("bfloat16", precision),
    "data_path": ("Images of ImageNet's size", data_path),
}
"""Benchmark -> its title here, and its text."""
OF_DEVICE = {
    "cpu": ("products", "distillation", "teacher_cost", "grid", "memory", "data_path", "precision"),
    "cuda": ("gpu", "stack", "distillation", "teacher_cost", "precision"),
}


def block() -> str:
    """Return the block of docs/performance.md: ratios over all processors, then each machine's record."""
    records = measured()
    of_kind = {kind: [record for record in records if kind_of(record) == kind] for kind in OF_DEVICE}
    parts = ["### Steps on the processors measured", ranges(of_kind["cpu"])]
    for kind, names in OF_DEVICE.items():
        for record in of_kind[kind]:
            parts.append(f"### {name_of(first_of(record))}")
            for name in names:
                title, text = PARTS[name]
                is_there = name in record and "not_measured" not in record[name]
                parts += [f"**{title}**", text(record) if is_there else "Not measured."]
        if not of_kind[kind]:
            parts += ["### GPU" if kind == "cuda" else "### CPU", "Not measured."]
    return "\n\n".join(parts)


def first_of(record: dict[str, Any]) -> dict[str, Any]:
    """Return a part of a record: all are of one machine."""
    return next(record[name] for name in PARTS if name in record)


def kind_of(record: dict[str, Any]) -> str:
    """Return `cpu` or `cuda`."""
    return first_of(record)["machine"]["device"]["kind"]


if __name__ == "__main__":
    sys.exit(main(ROOT / "docs/performance.md", "performance", block(), str(__doc__)))
