"""What several test files stand on: the packed digits and a small real teacher, made once per session."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from clipkd.plugins import datasets
from clipkd.spec.layout import Layout


@pytest.fixture(scope="session")
def digits_folder(tmp_path_factory) -> Path:
    """A data folder that holds the packed digits."""
    from clipkd.data.dataset import prepare_dataset

    data = tmp_path_factory.mktemp("digits") / "data"
    prepare_dataset(datasets.get("digits"), Layout(data).dataset(datasets.get("digits")))
    return data


@pytest.fixture(scope="session")
def vit_folder(tmp_path_factory) -> Path:
    """A headless Hugging Face ViT with random weights, as `save_pretrained` leaves it: 24 px, D = 16."""
    folder = tmp_path_factory.mktemp("teacher") / "toy-vit"
    save_vit(folder)
    return folder


def save_vit(folder: Path, classes: int | None = None, **changes) -> None:
    """Save a small ViT, with a classifier where `classes` are given, and its image processor."""
    import torch

    from clipkd.core.vision import torchvision  # noqa: F401  (transformers imports it)

    import transformers  # isort: skip

    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    config = transformers.ViTConfig(**{**sizes, "image_size": 24, "patch_size": 8, **changes})
    torch.manual_seed(0)
    if classes is None:
        model = transformers.ViTModel(config, add_pooling_layer=False)
    else:
        config.num_labels = classes
        model = transformers.ViTForImageClassification(config)
    # Fresh weights are tiny; larger ones make different images differ.
    for parameter in model.parameters():
        if parameter.ndim >= 2:
            torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    processor = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "size": {"height": 24, "width": 24}}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
