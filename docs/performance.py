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


def measured() -> dict[str, Any]:
    """Return the results, device -> JSON."""
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(RESULTS.glob("*.json"))}


def origin(part: dict[str, Any]) -> str:
    """Return where, when and how a part of the results was measured."""
    machine = part["machine"]
    device, torch = machine["device"], machine["packages"]["torch"]
    return (
        f"{device['name']}, {device['threads']} thread, torch {torch}, Python {machine['python']}, {part['date']}, "
        f"`{part['command']}`"
    )


def training_table(result: dict[str, Any]) -> str:
    """Return the table of steps: one row a train type and contender."""
    distillation = result["distillation"]
    peak, work = distillation["matrix_peak_gflops"], distillation["gflop_per_image"]
    lines = [
        "| train type | contender | CPU-s per step | lowest to highest | images per CPU-s | of torch's `@` | ratio |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for train_type in ("embed-KD", "teacher-KD", "vanilla"):
        for name, entry in distillation[train_type].items():
            spread = f"{entry['cpu_s_lowest']:.2f} to {entry['cpu_s_highest']:.2f}"
            has_teacher = name == "clipkd, live" or (name == "peer" and train_type != "embed-KD")
            share = "\N{EN DASH}" if has_teacher else f"{entry['images_per_cpu_second'] * work / peak:.0%}"
            lines.append(
                f"| {train_type} | {name} | {entry['cpu_s']:.2f} | {spread} | {entry['images_per_cpu_second']:.1f} "
                f"| {share} | {entry['cpu_ratio']:.2f} |"
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
    "distillation": ("A step", training),
    "teacher_cost": ("The teacher", teacher_cost),
    "grid": ("Students on all cores", grid),
    "memory": ("Memory", memory),
    "stack": ("One student and a stack", stack),
    "precision": ("bfloat16", precision),
    "data_path": ("Images of ImageNet's size", data_path),
}
"""Benchmark -> its title here, and its text."""
OF_DEVICE = {
    "cpu": ("distillation", "teacher_cost", "grid", "memory", "data_path", "precision"),
    "cuda": ("stack", "distillation", "teacher_cost", "precision"),
}


def block() -> str:
    """Return the block of docs/performance.md."""
    results = measured()
    parts = []
    for device, names in OF_DEVICE.items():
        parts.append(f"### {'CPU' if device == 'cpu' else 'GPU'}")
        for name in names:
            title, text = PARTS[name]
            found = results.get(device, {})
            is_there = name in found and "not_measured" not in found[name]
            parts += [f"**{title}**", text(found) if is_there else "Not measured."]
    return "\n\n".join(parts)


if __name__ == "__main__":
    sys.exit(main(ROOT / "docs/performance.md", "performance", block(), str(__doc__)))
