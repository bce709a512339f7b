"""Training a model of timm as a teacher, from scratch, saved as timm keeps models: config.json and safetensors.

A model is trained at `PIXELS` of its own: the images are brought to that size as the checkpoint's preprocessing will
bring them. The loop's state is saved beside the checkpoint to be, so that a training that is cut off goes on.
"""

from __future__ import annotations

import copy
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from clipkd.core.artifacts import building
from clipkd.core.errors import DataError, InputError, first_line
from clipkd.core.files import write_json, written_aside
from clipkd.core.fingerprint import fingerprint
from clipkd.core.progress import progress, say
from clipkd.data.dataset import Dataset
from clipkd.data.pixels import enlarged, flipped, normalised, planes, squares, unit
from clipkd.data.residency import fraction, free_memory
from clipkd.embeddings.encoder import width_of
from clipkd.embeddings.head import accuracy
from clipkd.embeddings.library_models import check_timm
from clipkd.embeddings.own_head import not_linear
from clipkd.embeddings.seen_images import write_seen
from clipkd.embeddings.timm_encoder import build, features_of, head_of, output_of
from clipkd.embeddings.train_teacher import shifted
from clipkd.plugins.teachers import TrainedCNN

SECONDS_BETWEEN_SAVES = 60.0
EVALUATION_BATCH = 256


def train_cnn(spec: TrainedCNN, dataset: Dataset, folder: Path, device: torch.device) -> None:
    """Train `spec` on the dataset's training rows and save it with its classifier as a teacher artefact.

    AdamW, one-cycle, cross-entropy with smoothed labels; images are shifted at random and, where the dataset's may be,
    mirrored. On a GPU that has bfloat16 its convolutions are computed in it.

    Raises:
        InputError: the dataset is another, timm has no such model for images of this size, or its classifier can't give
            class scores from stored embeddings.
        DataError: the training ended in numbers that are not finite.
    """
    if dataset.spec.name != spec.dataset or spec.data not in {"", fingerprint(dataset.spec.identity())}:
        raise InputError(f"teacher '{spec.name}' is trained on {spec.dataset}, from another source than this one")
    if not len(dataset.labelled_training):
        raise InputError(
            f"teacher '{spec.name}' learns from labels, and no training image of {dataset.spec.title} has one: take a "
            "pretrained teacher, or one that is trained on another dataset, as trained:MODEL@PIXELS?on=DATASET"
        )
    start = time.perf_counter()
    config = config_of(spec, dataset)
    torch.manual_seed(spec.seed)
    model = build(spec, config).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    images = Images(spec, dataset, device)
    check_size(spec, model, images)
    if not has_head(spec, model, device) and spec.brings_head(spec.dataset):
        raise not_linear(spec, dataset.spec.name)
    fit(spec, model, images, folder.with_name(f".{folder.name}.training.pt"), dataset.spec.mirrors)
    right = {part: images.accuracy(model, part) for part in ("validation", "test")}
    seconds = time.perf_counter() - start
    # Copies: some models use one weight twice, which safetensors refuses.
    state = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in model.state_dict().items()}
    if not all(torch.isfinite(tensor).all() for tensor in state.values()):
        raise DataError(f"teacher '{spec.name}': its training ended in weights that are not finite; nothing was kept")
    with building(folder, "teacher", spec.identity()) as draft:
        write_json(draft.path / "config.json", config)
        save_file(state, draft.path / "model.safetensors", metadata={"format": "pt"})
        parameters = sum(parameter.numel() for parameter in model.parameters())
        draft.facts |= {"source": "trained", "accuracy": right, "parameters": parameters, "seconds": round(seconds, 1)}
        write_seen(draft, dataset)
    folder.with_name(f".{folder.name}.training.pt").unlink(missing_ok=True)
    say(f"{spec.title}: {right['test']:.1%} test accuracy after {spec.epochs} epochs, {seconds:.0f} s")


def config_of(spec: TrainedCNN, dataset: Dataset) -> dict[str, Any]:
    """Return the config.json of the model, as timm writes it."""
    from clipkd.core.timm import timm

    check_timm(spec, spec.model)
    side, classes = spec.image_size, len(dataset.classes)
    is_fixed = timm.models.get_pretrained_cfg_value(spec.model, "fixed_input_size")
    classifier = timm.models.get_pretrained_cfg_value(spec.model, "classifier")
    return {
        "architecture": spec.model,
        "num_classes": classes,
        "label_names": dataset.classes,
        "model_args": {"img_size": side} if is_fixed else {},
        "pretrained_cfg": {
            "tag": f"clipkd-{dataset.spec.name}",
            "input_size": [3, side, side],
            "interpolation": "bilinear",
            "crop_pct": 1.0,
            "crop_mode": "squash",
            "mean": list(dataset.spec.mean),
            "std": list(dataset.spec.std),
            "num_classes": classes,
            **({"classifier": classifier} if classifier else {}),
        },
    }


def check_size(spec: TrainedCNN, model: nn.Module, images: Images) -> None:
    """Raise InputError where a model can't be trained on images of its size."""
    try:
        model.train()(images.batch(images.rows["train"][:2], "train"))
    except (AssertionError, RuntimeError, TypeError, ValueError) as error:
        raise InputError(
            f"teacher '{spec.name}': {spec.model} can't be trained on images of {spec.image_size} pixels "
            f"({first_line(error)}); try trained:{spec.model}@{2 * int(spec.image_size or 0)}"
        ) from None


def has_head(spec: TrainedCNN, model: nn.Module, device: torch.device) -> bool:
    """Return whether a model's classifier will be one linear layer on its embedding, once it is trained.

    Raises:
        InputError: its features can't be stored.
    """
    side = int(spec.image_size or 0)
    moved = copy.deepcopy(model).eval()
    # Fresh normalisations change nothing much: one between embedding and classifier would not be seen.
    values = [value for value in (*moved.parameters(), *moved.buffers()) if value.ndim == 1]
    with torch.inference_mode():
        for value in values:
            value += 0.1 * torch.rand(value.shape, generator=torch.Generator().manual_seed(0)).to(value)
        features = features_of(spec, moved, torch.zeros(1, 3, side, side, device=device))
    run = output_of(spec, moved, features)
    width_of(spec, run, side, device)
    return head_of(spec, moved, run, side, device) is not None


class Images:
    """A dataset's images as 8-bit pixels of one size: in the device's memory where they fit, else read batch by batch.

    On a CPU, images that have this size already are read from the packed file itself, which needs no memory of its own.
    """

    def __init__(self, spec: TrainedCNN, dataset: Dataset, device: torch.device) -> None:
        self.side, self.mean, self.std = int(spec.image_size or 0), dataset.spec.mean, dataset.spec.std
        self.size, self.device = dataset.spec.image_size or self.side, device
        self.content = dataset.content
        self.packed = {split: dataset.images(split) for split in ("train", "test")}
        count = sum(map(len, self.packed.values()))
        is_mapped = device.type == "cpu" and dataset.spec.image_size is not None
        is_held = not is_mapped and count * self.size**2 * 3 <= fraction() * free_memory(device)
        self.held = {split: self.read(split, slice(None)) for split in self.packed} if is_held else {}
        self.labels = {split: torch.from_numpy(dataset.labels(split).copy()).to(device) for split in ("train", "test")}
        rows = {"train": dataset.labelled_training, "validation": dataset.validation}
        self.rows = {part: torch.from_numpy(index.copy()).to(device) for part, index in rows.items()}
        self.rows["test"] = torch.arange(len(self.labels["test"]), device=device)

    def batch(self, rows: Tensor, split: str) -> Tensor:
        """Return images as the model's input."""
        return self.presented(self.pixels(rows, split))

    def pixels(self, rows: Tensor, split: str) -> Tensor:
        """Return images [B, 3, H, W] in [0, 1]."""
        return unit(self.held[split][rows] if self.held else self.read(split, rows.cpu().numpy()))

    def read(self, split: str, rows: np.ndarray | slice) -> Tensor:
        """Return packed images, uint8 [B, 3, H, W], on the device."""
        images: Any = self.packed[split]
        if not isinstance(images, np.ndarray):
            images = [images[row] for row in np.arange(len(images))[rows]]
            rows = slice(None)
        return planes(squares(images[rows], self.size)).to(self.device)

    def presented(self, pixels: Tensor) -> Tensor:
        """Return pixels [B, 3, H, W] in [0, 1] as the model's input [B, 3, S, S]."""
        inputs = normalised(enlarged(pixels, self.side), self.mean, self.std)
        return inputs.contiguous(memory_format=torch.channels_last)

    @torch.inference_mode()
    def accuracy(self, model: nn.Module, part: str) -> float:
        """Return a model's accuracy on a part of the dataset."""
        split, rows = ("test" if part == "test" else "train"), self.rows[part]
        model.eval()
        scores = torch.cat([model(self.batch(some, split)).float() for some in rows.split(EVALUATION_BATCH)])
        return accuracy(scores, self.labels[split][rows])


def fit(spec: TrainedCNN, model: nn.Module, images: Images, saved: Path, mirrors: bool) -> None:
    """Run the training loop, from where its state was saved last."""
    rows, labels = images.rows["train"], images.labels["train"]
    steps = max(1, len(rows) // spec.batch_size)
    optimiser = torch.optim.AdamW(decayed(model, spec.weight_decay), lr=spec.learning_rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, spec.learning_rate, total_steps=spec.epochs * steps)
    identity = fingerprint(spec.identity() | {"content": images.content})
    loop = Loop(identity, spec.title, model, optimiser, schedule, torch.Generator().manual_seed(spec.seed), saved)
    limit, device = max(1, images.size // spec.shift), rows.device
    is_bf16 = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    for epoch in progress(range(loop.resumed(), spec.epochs), spec.epochs, f"training {spec.title}", unit="epochs"):
        model.train()
        order = rows[torch.randperm(len(rows), generator=loop.generator).to(device)]
        # Batch normalisation needs more than a few images: those that are left over come in another epoch.
        for batch in order.split(spec.batch_size)[:steps]:
            pixels = shifted(images.pixels(batch, "train"), limit, loop.generator)
            if mirrors:
                pixels = flipped(pixels, (torch.rand(len(batch), generator=loop.generator) < 0.5).to(device))
            with torch.autocast(device.type, torch.bfloat16, enabled=is_bf16):
                scores = model(images.presented(pixels))
            loss = F.cross_entropy(scores.float(), labels[batch], label_smoothing=spec.label_smoothing)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
        loop.save(epoch + 1)


def decayed(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Return a model's parameters in two groups: matrices and filters decay; biases and normalisation do not."""
    groups: dict[bool, list[nn.Parameter]] = {True: [], False: []}
    for parameter in model.parameters():
        groups[parameter.ndim > 1].append(parameter)
    return [{"params": groups[True], "weight_decay": weight_decay}, {"params": groups[False], "weight_decay": 0.0}]


class Loop:
    """The state of a training, saved once a minute."""

    def __init__(
        self,
        identity: str,
        title: str,
        model: nn.Module,
        optimiser: Any,
        schedule: Any,
        generator: torch.Generator,
        path: Path,
    ) -> None:
        self.identity, self.title = identity, title
        self.parts = {"model": model, "optimiser": optimiser, "schedule": schedule}
        self.generator, self.path, self.saved = generator, path, time.monotonic()
        self.device = next(model.parameters()).device

    def save(self, epoch: int) -> None:
        """Save the state after an epoch, unless that was done a moment ago."""
        if time.monotonic() - self.saved < SECONDS_BETWEEN_SAVES:
            return
        state = {name: part.state_dict() for name, part in self.parts.items()}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with written_aside(self.path) as aside:
            random = [self.generator.get_state(), torch.get_rng_state()]
            if self.device.type == "cuda":
                random.append(torch.cuda.get_rng_state(self.device))
            torch.save(state | {"epoch": epoch, "random": random, "identity": self.identity}, aside)
        self.saved = time.monotonic()

    def resumed(self) -> int:
        """Return the epochs that are done already, after loading their state; 0 where none was saved."""
        try:
            state = torch.load(self.path, map_location="cpu", weights_only=True)
        except FileNotFoundError:
            return 0
        except Exception as error:  # torch raises many kinds for a damaged file
            say(f"{self.path} is damaged ({type(error).__name__}); training {self.title} from the beginning")
            return 0
        if state["identity"] != self.identity:
            return 0
        for name, part in self.parts.items():
            part.load_state_dict(state[name])
        self.generator.set_state(state["random"][0])
        torch.set_rng_state(state["random"][1])
        if self.device.type == "cuda" and len(state["random"]) > 2:
            torch.cuda.set_rng_state(state["random"][2], self.device)
        say(f"{self.title}: going on after {state['epoch']} epochs")
        return int(state["epoch"])
