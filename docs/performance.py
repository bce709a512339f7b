"""Write what the benchmarks measured into docs/performance.md and README.md: `python docs/performance.py [--check]`."""

from __future__ import annotations

import json
import sys
from typing import Any

from generated import ROOT, main

RESULTS = ROOT / "benchmarks/results"
TITLES = {"vit-b16": "ViT-B/16"}
CIFAR_TRAIN, CIFAR_TEST = 50_000, 10_000


def measured() -> dict[str, Any]:
    """Return the results, device -> JSON."""
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(RESULTS.glob("*.json"))}


def origin(result: dict[str, Any]) -> str:
    """Return where, when and how a result was measured."""
    machine = result["machine"]
    device, torch = machine["device"], machine["packages"]["torch"]
    return (
        f"{device['name']}, {device['threads']} thread, torch {torch}, Python {machine['python']}, {result['date']}, "
        f"`{result['command']}`"
    )


def training_table(result: dict[str, Any]) -> str:
    """Return the table of steps: one row a train type and contender."""
    peak, work = result["matrix_peak_gflops"], result["distillation"]["gflop_per_image"]
    lines = [
        "| train type | contender | CPU-s a step | lowest to highest | images per CPU-s | of torch's `@` | ratio |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for train_type in ("embed-KD", "teacher-KD", "vanilla"):
        for name, entry in result["distillation"][train_type].items():
            spread = f"{entry['cpu_s_lowest']:.2f} to {entry['cpu_s_highest']:.2f}"
            has_teacher = name == "clipkd, live" or (name == "peer" and train_type != "embed-KD")
            share = "\N{EN DASH}" if has_teacher else f"{entry['images_per_cpu_second'] * work / peak:.0%}"
            lines.append(
                f"| {train_type} | {name} | {entry['cpu_s']:.2f} | {spread} | {entry['images_per_cpu_second']:.1f} "
                f"| {share} | {entry['cpu_ratio']:.2f} |"
            )
    return "\n".join(lines)


def teacher_cost(result: dict[str, Any]) -> str:
    """Return what the teacher costs for CIFAR, from the measured pass and step."""
    cost, distillation = result["teacher_cost"], result["distillation"]["teacher-KD"]
    teacher, steps = TITLES.get(result["teacher"], result["teacher"]), CIFAR_TRAIN / result["batch_size"]
    passes = 2 * CIFAR_TRAIN + CIFAR_TEST
    extraction = passes * cost["cpu_s_per_pass"] / 3600
    cached, live = (distillation[f"clipkd, {source}"]["cpu_s"] * steps / 3600 for source in ("cached", "live"))
    stored = passes * cost["bytes_per_view"]
    check = stored / cost["checked_bytes_per_second"]
    lines = [
        f"| {teacher} on CIFAR (50,000 images), student {result['student']}, one thread | |",
        "|---|---:|",
        f"| one teacher pass (measured) | {cost['cpu_s_per_pass']:.3f} CPU-s |",
        f"| extraction, once: 2 views of an image, and the test split, {passes:,} passes | {extraction:.1f} CPU-h |",
        f"| an epoch of teacher-KD with the live teacher, {CIFAR_TRAIN:,} passes | {live:.1f} CPU-h |",
        f"| an epoch of teacher-KD with the stored embeddings, 0 passes | {cached:.2f} CPU-h |",
        f"| extraction is paid back after | {extraction / (live - cached):.1f} epochs |",
        f"| 200 epochs, live / stored with its extraction | {200 * live / (200 * cached + extraction):.1f} times |",
        f"| stored, {cost['dtype']}, {cost['dimensions']} dimensions | {stored / 1e6:.0f} MB |",
        f"| checking every stored byte (once per machine) | {check:.2f} s, {check / (cached * 3600):.3%} of an epoch |",
    ]
    return "\n".join(lines)


def data_path_table(result: dict[str, Any]) -> str:
    """Return the table of the data path of ImageNet-sized images."""
    path = result["data_path"]
    width, height = path["image"]
    lines = [
        f"| random crops of {width} x {height} images for a {path['side']} px student | images per CPU-s "
        "| lowest to highest | images per s | ratio (CPU) |",
        "|---|---:|---:|---:|---:|",
    ]
    for name, entry in path.items():
        if isinstance(entry, dict):
            spread = f"{entry['images_per_cpu_s_lowest']:,} to {entry['images_per_cpu_s_highest']:,}"
            lines.append(
                f"| {name} | {entry['images_per_cpu_s']:,} | {spread} | {entry['images_per_s']:,} "
                f"| {entry['images_per_cpu_s_ratio']:.1f} |"
            )
    return "\n".join(lines)


def block() -> str:
    """Return the block of docs/performance.md."""
    parts = []
    results = measured()
    for device in ("cpu", "cuda"):
        parts.append(f"### {'CPU' if device == 'cpu' else 'GPU'}")
        if device not in results:
            parts.append("Not measured.")
            continue
        result = results[device]
        ratios = {name: result["distillation"][name] for name in ("teacher-KD", "vanilla")}
        gains = " and ".join(
            f"{entry['clipkd, live']['cpu_ratio']:.1f} times ({name})" for name, entry in ratios.items()
        )
        parts += [
            f"{origin(result)}; torch's own fp32 matrix product, `@`, {result['matrix_peak_gflops']:.0f} GFLOP/s.",
            training_table(result),
            f"The live teacher costs {gains} the CPU time of a step with its stored signal.",
            teacher_cost(result),
            *([data_path_table(result)] if "data_path" in result else []),
        ]
    return "\n\n".join(parts)


def readme_block() -> str:
    """Return the block of README.md."""
    result = measured()["cpu"]
    peer = result["distillation"]["embed-KD"]["peer"]["cpu_ratio"]
    return "\n\n".join(
        [
            teacher_cost(result),
            f"The pass and the steps are measured, the totals multiplied out. Against the released protocol's loop, a "
            f"step of embed-KD takes {peer:.2f} times less CPU time. Measured on {origin(result)}. Every contender "
            f"and what the numbers mean: [docs/performance.md](docs/performance.md).",
        ]
    )


if __name__ == "__main__":
    description = str(__doc__)
    codes = [
        main(ROOT / "docs/performance.md", "performance", block(), description),
        main(ROOT / "README.md", "teacher-cost", readme_block(), description),
    ]
    sys.exit(max(codes))
