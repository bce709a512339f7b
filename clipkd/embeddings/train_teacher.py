"""Training a local teacher: a small Hugging Face ViT, from scratch, saved like a hub checkpoint."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clipkd.core.artifacts import building
from clipkd.core.errors import InputError
from clipkd.core.files import write_json
from clipkd.core.progress import progress, say
from clipkd.data.dataset import Dataset
from clipkd.data.pixels import enlarged, normalised, planes, squares, unit
from clipkd.embeddings.head import accuracy
from clipkd.plugins.teachers import TrainedTeacher

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Value = TypeVar("Value")


def train_teacher(spec: TrainedTeacher, dataset: Dataset, folder: Path, device: torch.device) -> None:
    """Train `spec` on the dataset's training rows and save the headless encoder as a teacher artefact.

    AdamW, one-cycle, cross-entropy; random shifts are the only augmentation. The classifier that it
    was trained with is not kept: as an `in21k` checkpoint, the teacher has no head of the dataset.
    """
    if dataset.spec.name != spec.dataset:
        raise InputError(f"teacher '{spec.name}' is trained on {spec.dataset}, not on {dataset.spec.name}")
    mean, std, image_size = known(spec.mean), known(spec.std), known(spec.image_size)
    start = time.perf_counter()
    torch.manual_seed(spec.seed)
    encoder = build(spec)
    encoder.to(device)  # type: ignore[arg-type]  # transformers wraps `to` without types
    classifier = nn.Linear(known(spec.hidden_size), len(dataset.classes)).to(device)
    size = dataset.spec.image_size or image_size
    pixels = {split: unit(planes(squares(dataset.images(split), size))).to(device) for split in ("train", "test")}
    labels = {split: torch.from_numpy(dataset.labels(split).copy()).to(device) for split in ("train", "test")}
    training = torch.from_numpy(dataset.labelled_training.copy()).to(device)

    def scores(images: Tensor) -> Tensor:
        inputs = enlarged(normalised(images, mean, std), image_size)
        return classifier(encoder(pixel_values=inputs).last_hidden_state[:, 0])

    fit(spec, scores, [*encoder.parameters(), *classifier.parameters()], pixels["train"], labels["train"], training)
    encoder.eval()
    held_out = torch.from_numpy(dataset.validation.copy()).to(device)
    with torch.inference_mode():
        right = {
            "validation": accuracy(scores(pixels["train"][held_out]), labels["train"][held_out]),
            "test": accuracy(scores(pixels["test"]), labels["test"]),
        }
    seconds = time.perf_counter() - start
    with building(folder, "teacher", spec.identity()) as draft:
        encoder.to("cpu")  # type: ignore[arg-type]
        encoder.save_pretrained(draft.path)
        write_json(draft.path / "preprocessor_config.json", preprocessor(spec))
        parameters = sum(parameter.numel() for parameter in encoder.parameters())
        draft.facts |= {"source": "trained", "accuracy": right, "parameters": parameters, "seconds": round(seconds, 1)}
    say(f"{spec.title}: {right['test']:.1%} test accuracy after {spec.epochs} epochs, {seconds:.0f} s")


def known(value: Value | None) -> Value:
    """Return a size that every local teacher's file gives (other teachers' may leave it to the checkpoint)."""
    assert value is not None
    return value


def build(spec: TrainedTeacher) -> PreTrainedModel:
    """Return a fresh ViT of the teacher's sizes, without a pooler."""
    from clipkd.core.vision import torchvision  # noqa: F401  (transformers imports it: it must work first)

    from transformers import ViTConfig, ViTModel, utils  # isort: skip

    utils.logging.disable_progress_bar()  # it would draw a bar for saving a file

    config = ViTConfig(
        hidden_size=known(spec.hidden_size),
        num_hidden_layers=spec.layers,
        num_attention_heads=spec.heads,
        intermediate_size=4 * known(spec.hidden_size),
        image_size=known(spec.image_size),
        patch_size=known(spec.patch_size),
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    return ViTModel(config, add_pooling_layer=False)


def fit(
    spec: TrainedTeacher,
    scores: Callable[[Tensor], Tensor],
    parameters: list[nn.Parameter],
    pixels: Tensor,
    labels: Tensor,
    rows: Tensor,
) -> None:
    """Run the training loop; of no epochs, the weights stay random."""
    if spec.epochs == 0:
        return
    steps = -(-len(rows) // spec.batch_size)
    optimiser = torch.optim.AdamW(parameters, lr=spec.learning_rate, weight_decay=spec.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, spec.learning_rate, total_steps=spec.epochs * steps)
    generator = torch.Generator().manual_seed(spec.seed)
    for _ in progress(range(spec.epochs), spec.epochs, f"training {spec.title}", unit="epochs"):
        for batch in rows[torch.randperm(len(rows), generator=generator).to(rows.device)].split(spec.batch_size):
            images = shifted(pixels[batch], spec.max_shift, generator)
            loss = F.cross_entropy(scores(images), labels[batch])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()


def shifted(images: Tensor, limit: int, generator: torch.Generator) -> Tensor:
    """Return images [B, 3, H, W], each moved by up to `limit` whole pixels; its edge is repeated."""
    height, width = images.shape[-2:]
    corners = torch.randint(0, 2 * limit + 1, (len(images), 2), generator=generator).tolist()
    padded = F.pad(images, (limit,) * 4, mode="replicate")
    return torch.stack(
        [image[:, top : top + height, left : left + width] for image, (top, left) in zip(padded, corners, strict=True)]
    )


def preprocessor(spec: TrainedTeacher) -> dict:
    """Return the image processor's settings, as Hugging Face writes them."""
    return {
        "image_processor_type": "ViTImageProcessor",
        "do_resize": True,
        "size": {"height": spec.image_size, "width": spec.image_size},
        "resample": 2,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(known(spec.mean)),
        "image_std": list(known(spec.std)),
    }
