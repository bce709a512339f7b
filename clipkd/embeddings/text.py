"""The text tower: class names in place of images. A teacher that is shown no image at all.

What it says of each prompt is stored as a sample of its class, exactly as image embeddings are: class prototypes,
their forms and everything after them are the same. CLIP's own prompt ensembling is the form `unit-mean`.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from clipkd.core import device as devices
from clipkd.core.artifacts import MANIFEST, Artifact, building, open_artifact
from clipkd.core.errors import DataError, InputError
from clipkd.core.files import read_json
from clipkd.core.progress import progress, say
from clipkd.data.dataset import Dataset
from clipkd.embeddings.families import FAMILIES, POSITIONS, TextFamily, text_family
from clipkd.embeddings.store import write_sample
from clipkd.embeddings.teacher import not_finite, opened
from clipkd.embeddings.transformers_encoder import built
from clipkd.embeddings.weights import check_weights, compare, complain
from clipkd.embeddings.weights_sha256 import as_fact, weights_of
from clipkd.plugins.teachers import TeacherSpec
from clipkd.spec.layout import Embeddings
from clipkd.spec.prompts import prompts
from clipkd.spec.views import Prompts

BATCH = 64


@dataclass
class TextTower:
    """A loaded text tower of a CLIP or SigLIP, up to the space that both towers share."""

    spec: TeacherSpec
    model: Any
    """The encoder, from token numbers."""
    projection: nn.Module
    """Into the space that both towers share."""
    family: TextFamily
    tokenizer: Any
    device: torch.device
    weights_sha256: str | None = None
    """Of the file that its weights were loaded from."""

    @property
    def parameters(self) -> int:
        """Number of the tower's parameters."""
        return sum(one.numel() for part in (self.model, self.projection) for one in part.parameters())

    def tokens(self, texts: list[str]) -> torch.Tensor:
        """Return token numbers [B, T], each text filled up to one length.

        Raises:
            InputError: a text has more tokens than the tower takes; names it.
            DataError: the tokenizer is not this tower's.
        """
        config = self.model.config
        written = [self.family.normalise(text, self.tokenizer) for text in texts]
        coded = [code.ids for code in self.tokenizer.encode_batch(written)]
        for text, ids in zip(texts, coded, strict=True):
            if len(ids) > config.max_position_embeddings:
                raise InputError(
                    f"'{text}' has {len(ids)} tokens, the text tower of '{self.spec.name}' takes "
                    f"{config.max_position_embeddings}: shorten the template or the class name"
                )
            end = self.family.end(config, self.tokenizer, ids)
            if not ids or max(ids) >= config.vocab_size or ids[-1] != end:
                raise DataError(
                    f"teacher '{self.spec.name}': its tokenizer.json is not its text tower's ('{text}': {ids})"
                )
        # CLIP's tower reads the first end token and looks only backwards: what comes after it changes nothing. SigLIP's
        # reads the last place of all and looks everywhere, as it was trained to.
        length = config.max_position_embeddings if self.family.has_fixed_length else max(map(len, coded))
        return torch.tensor(
            [ids + [self.family.padding(self.tokenizer, ids[-1])] * (length - len(ids)) for ids in coded]
        )

    @torch.inference_mode()
    def embed(self, texts: list[str]) -> np.ndarray:
        """Return the projected embeddings [B, D], float32, of texts."""
        pooled = self.model(input_ids=self.tokens(texts).to(self.device)).pooler_output
        vectors = self.projection(pooled).float().cpu().numpy()
        if not np.isfinite(vectors).all():
            raise DataError(not_finite(self.spec, "float32"))
        return vectors


def load_text(spec: TeacherSpec, folder: Path, device: torch.device) -> TextTower:
    """Load the text tower of the teacher artefact in `folder`, every weight checked.

    Raises:
        DataError: the artefact is missing or damaged; a weight is missing, unexpected, mis-shaped or not finite.
        InputError: the checkpoint is of another family.
    """
    return text_tower(spec, opened(spec, folder), device)


def text_tower(spec: TeacherSpec, artifact: Artifact, device: torch.device) -> TextTower:
    """Load the text tower of a checkpoint; raises as `load_text`."""
    from tokenizers import Tokenizer

    family = text_family_of(spec, read_json(artifact.file("config.json")))
    check_weights(spec, artifact.file("model.safetensors"))
    # Both towers are loaded and checked; the sizes of their projections are in the config of the whole.
    model, report = built(family.model, artifact)
    complain(artifact.path, report, POSITIONS)
    compare(artifact.file("model.safetensors"), model)
    artifact.still(artifact.file("model.safetensors"))
    path = artifact.file("tokenizer.json")
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the tokenizers library raises plain Exceptions
        raise DataError(f"{path} is no tokenizer ({error})") from None
    tokenizer.no_padding()
    tokenizer.no_truncation()
    model.eval().requires_grad_(False)
    projection = getattr(model, family.projection) if family.projection else nn.Identity()
    encoder, into = model.text_model.to(device), projection.to(device)
    return TextTower(spec, encoder, into, family, tokenizer, device, weights_of(artifact))


def text_family_of(spec: TeacherSpec, config: dict[str, Any]) -> TextFamily:
    """Return the family of a checkpoint's text encoder; InputError if it is unknown."""
    kind = config.get("model_type")
    family = text_family(str(kind))
    if family is None:
        known = ", ".join(name for name in FAMILIES if text_family(name))
        raise InputError(f"teacher '{spec.name}': its model_type is '{kind}'; supported text encoders: {known}")
    return family


def extract_names(store: Embeddings, dataset: Dataset, folder: Path, device: torch.device) -> Artifact:
    """Write what a text tower says of every class's prompts, as the sample of a store.

    Args:
        store: what to make; its views are `Prompts`.
        dataset: for its class names.
        folder: the teacher's checkpoint.
        device: what computes.
    """
    views: Prompts = store.views
    tower = load_text(store.teacher, folder, device)
    names = views.of(dataset.classes)
    texts = [text for name in names for text in prompts(name, views.templates)]
    what = f"{store.dataset.title} class names through {store.teacher.title}"
    start = time.perf_counter()
    begins = range(0, len(texts), BATCH)
    vectors = np.concatenate(
        [tower.embed(texts[begin : begin + BATCH]) for begin in progress(begins, len(begins), what)]
    )
    seconds = time.perf_counter() - start
    with building(store.folder, "embeddings", store.identity, replace=(store.folder / MANIFEST).exists()) as draft:
        write_sample(draft, vectors, np.repeat(np.arange(len(names)), len(views.templates)), store.dtype, what)
        draft.facts |= {
            "forward_passes": len(texts),
            "seconds": round(seconds, 3),
            "device": devices.describe(device)["name"],
            "teacher_parameters": tower.parameters,
            "hidden_size": vectors.shape[1],
            "dataset_content": dataset.content,
            "class_names": names,
            "templates": list(views.templates),
        } | as_fact(tower.weights_sha256)
    say(f"{what}: {len(texts):,} prompts, {seconds:.1f} s")
    return open_artifact(store.folder, "embeddings", store.identity)
