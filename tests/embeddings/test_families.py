"""Teachers of every family and pooling, against transformers and its own image processor, used plainly."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from clipkd.core.artifacts import open_artifact
from clipkd.core.errors import DataError, InputError
from clipkd.data.dataset import open_dataset
from clipkd.data.pixels import planes, unit
from clipkd.embeddings import prepare
from clipkd.embeddings.teacher import load
from clipkd.plugins import datasets, recipes, students, teachers
from clipkd.spec.layout import Layout
from clipkd.spec.views import Sample, full_views, prototype_views
from tests import checkpoints

import transformers  # isort: skip

pytestmark = pytest.mark.usefixtures("mirrored_digits")

CPU = torch.device("cpu")
KINDS = [
    ("vit", "cls"), ("vit", "mean"), ("vit", "pooler"),
    ("dinov2", "cls"), ("dinov2", "mean"), ("dinov2", "pooler"),
    ("clip", "cls"), ("clip", "mean"), ("clip", "pooler"),
    ("siglip", "mean"), ("siglip", "pooler"),
]  # fmt: skip


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A checkpoint of each family."""
    root = tmp_path_factory.mktemp("families")
    return {family: checkpoints.save(family, root / family) for family in checkpoints.PROCESSORS}


def loaded(name, layout):
    """Load a teacher the way a run does: through the artefact store."""
    spec = teachers.get(name)
    prepare.teacher(spec, layout, CPU)
    return load(spec, layout.teacher(spec), CPU)


def photo(height, width, seed=0):
    """An 8-bit image with structure, [H, W, 3]."""
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def plainly(folder, family, output, image):
    """Return the embedding of an image by transformers alone: its processor and its model, nothing of ours."""
    rules = json.loads((folder / "preprocessor_config.json").read_text())
    kind = getattr(transformers, rules["image_processor_type"] + "Pil", None)
    kind = kind or getattr(transformers, rules["image_processor_type"])
    pixels = kind.from_pretrained(folder)(Image.fromarray(image), return_tensors="pt")["pixel_values"]
    whole = {
        "vit": transformers.ViTModel, "dinov2": transformers.Dinov2Model,
        "clip": transformers.CLIPModel, "siglip": transformers.SiglipModel,
    }[family].from_pretrained(folder).eval()  # fmt: skip
    tower = whole.vision_model if family in {"clip", "siglip"} else whole
    with torch.no_grad():
        outputs = tower(pixel_values=pixels)
    hidden = outputs.last_hidden_state[0]
    patches = hidden if family == "siglip" else hidden[1:]
    assert len(patches) == (checkpoints.SIDE // checkpoints.PATCH) ** 2
    return {"cls": hidden[0], "mean": patches.mean(dim=0), "pooler": outputs.pooler_output[0]}[output].numpy()


def cosine(a, b):
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def shown(teacher, image):
    """Return what a teacher says of an image, presented as its processor wants it."""
    return teacher.embed(teacher.present(unit(planes(image[None])), None, None))[0].numpy()


@pytest.mark.parametrize(("family", "output"), KINDS)
def test_an_embedding_is_that_of_transformers(family, output, folders, tmp_path):
    teacher = loaded(f"{folders[family]}:{output}", Layout(tmp_path))
    assert teacher.width == checkpoints.WIDTH
    for seed, (height, width) in enumerate([(40, 40), (50, 38), (24, 24), (32, 61)]):
        image = photo(height, width, seed)
        expected = plainly(folders[family], family, output, image)
        found = shown(teacher, image)
        # Ours resizes numbers, the processor 8-bit images: a rounding apart.
        assert cosine(found, expected) > 0.9995, (height, width)
        others = [other for kind, other in KINDS if kind == family and other != output]
        wrong = [plainly(folders[family], family, other, image) for other in others]
        same = {("dinov2", "cls"): "pooler", ("dinov2", "pooler"): "cls"}.get((family, output))
        for other, vector in zip(others, wrong, strict=True):
            # The control: another pooling is another vector (DINOv2's pooler is its class token).
            assert (cosine(found, vector) > 0.9995) == (other == same)


def test_the_crop_and_the_shape_matter(folders, tmp_path):
    """The control of the test above: squashing to a square, or no crop, is not what the processor does."""
    teacher = loaded(f"{folders['dinov2']}:mean", Layout(tmp_path))
    image = photo(50, 38)
    expected = plainly(folders["dinov2"], "dinov2", "mean", image)
    squashed = np.asarray(Image.fromarray(image).resize((24, 24), Image.Resampling.BICUBIC))
    assert cosine(shown(teacher, squashed), expected) < 0.999


def test_stored_embeddings_of_images_of_many_shapes_are_those_of_the_processor(folders, tmp_path):
    sizes = [(50, 38), (40, 40), (31, 45)]
    for split in ("train", "val"):
        for number, size in enumerate(sizes):
            for name in ("a", "b"):
                path = tmp_path / "flowers" / split / name / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(photo(*size, seed=number + 5 * (name == "b"))).save(path)
    layout, source = Layout(tmp_path / "data", dtype="float32"), str(tmp_path / "flowers")
    flowers, spec = datasets.get("flowers", source), teachers.get(f"{folders['dinov2']}:mean")
    views = full_views(recipes.get("corrected"), flowers, students.get("tiny-32"), spec)
    store = layout.embeddings(flowers, spec, views)
    prepare.embeddings(store, layout, source, CPU, batch_size=4)
    found = open_artifact(store.folder, "embeddings", store.identity).array("train")[:, 0]
    for row, (size, seed) in enumerate(
        itertools.chain(zip(sizes, range(3), strict=True), zip(sizes, range(5, 8), strict=True))
    ):
        assert cosine(found[row], plainly(folders["dinov2"], "dinov2", "mean", photo(*size, seed=seed))) > 0.9995


def test_stored_embeddings_of_the_digits_are_those_of_the_processor(folders, digits_folder, tmp_path):
    layout = Layout(tmp_path, dtype="float32", sample=Sample(2))
    (tmp_path / "datasets").symlink_to(digits_folder / "datasets")
    spec, digits = teachers.get(f"{folders['clip']}:pooler"), datasets.get("digits")
    store = layout.embeddings(digits, spec, prototype_views(recipes.get("corrected"), digits, spec, layout.sample))
    prepare.embeddings(store, layout, None, CPU)
    found = open_artifact(store.folder, "embeddings", store.identity)
    dataset = open_dataset(digits, layout.dataset(digits))
    for row in (0, 7):
        image = dataset.image("train", found.array("sample-rows")[row])
        turned = np.ascontiguousarray(image[:, ::-1]) if found.array("sample-flips")[row] else image
        expected = plainly(folders["clip"], "clip", "pooler", turned)
        assert cosine(found.array("sample")[row], expected) > 0.9995


def test_each_pooling_has_a_fingerprint_of_its_own_and_shares_the_checkpoint(folders, tmp_path):
    layout, digits = Layout(tmp_path), datasets.get("digits")
    specs = [teachers.get(f"{folders['clip']}:{output}") for output in ("cls", "mean", "pooler")]
    stores = [
        layout.embeddings(digits, spec, full_views(recipes.get(recipe), digits, students.get("tiny-32"), spec))
        for spec, recipe in itertools.product(specs, ["reference", "corrected"])
    ]
    assert len({store.folder.name for store in stores}) == 6
    assert len({layout.teacher(spec) for spec in specs}) == 1


def test_fingerprints_of_stores_that_existed_before_poolings_stay():
    """Taken from the version before: what nothing changed is not made again."""
    layout, digits = Layout(), datasets.get("digits")
    known = {
        ("reference", "digits-vit-s"): "432a3452db418e65",
        ("corrected", "digits-vit-s"): "74a5907dc2d48f42",
        ("reference", "vit-l16-in21k"): "7a00605a7d5c25c6",
        ("corrected", "vit-l16-in21k"): "49f80143c4548622",
    }
    found = {
        (recipe, name): layout.embeddings(
            digits,
            teachers.get(name),
            full_views(recipes.get(recipe), digits, students.get("tiny-32"), teachers.get(name)),
        ).folder.name
        for recipe, name in known
    }
    assert found == known


def test_a_class_token_that_is_not_there_is_refused(folders, tmp_path):
    with pytest.raises(InputError, match=r"no class token: end its name in :mean or :pooler"):
        loaded(str(folders["siglip"]), Layout(tmp_path))


def test_a_pooler_that_is_not_there_is_refused(vit_folder, tmp_path):
    with pytest.raises(InputError, match="has no pooler"):
        loaded(f"{vit_folder}:pooler", Layout(tmp_path))


@pytest.mark.parametrize(
    ("family", "name"),
    [
        ("clip", "vision_model.post_layernorm.weight"),
        ("siglip", "vision_model.head.probe"),
        ("dinov2", "layernorm.bias"),
    ],
)
def test_a_weight_of_the_tower_that_is_missing_is_an_error(family, name, tmp_path):
    folder = checkpoints.save(family, tmp_path / family)
    weights = load_file(folder / "model.safetensors")
    del weights[name]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(DataError, match=f"missing: .*{name.split('.')[-1]}"):
        loaded(f"{folder}:pooler", Layout(tmp_path / "data"))


def test_an_unexpected_weight_of_the_tower_is_an_error(tmp_path):
    folder = checkpoints.save("clip", tmp_path / "clip")
    weights = load_file(folder / "model.safetensors") | {"vision_model.surprise": torch.ones(2)}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(DataError, match=r"unexpected: .*surprise"):
        loaded(f"{folder}:pooler", Layout(tmp_path / "data"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"resample": 1}, "resample: 1"),
        ({"do_pad": True}, "do_pad"),
        ({"do_resize": False}, "do_resize: false"),
        ({"rescale_factor": 0}, "rescale_factor: 0"),
        ({"rescale_offset": True}, "rescale_offset"),
        ({"do_flip_channel_order": True}, r"do_flip_channel_order \(blue"),
        ({"do_something_new": True}, "asks for do_something_new,"),
        ({"do_center_crop": False}, "without a crop"),
        ({"crop_size": 60}, "crop_size: 60"),
        ({"size": {"height": 24, "width": 30}, "do_center_crop": False}, "24 x 30"),
    ],
)
def test_rules_that_are_not_followed_are_refused_in_words(change, words, tmp_path):
    folder = checkpoints.save("clip", tmp_path / "clip", **change)
    with pytest.raises(InputError, match=words):
        loaded(f"{folder}:pooler", Layout(tmp_path / "data"))


@pytest.mark.parametrize(
    "change",
    [
        {"do_rescale": False},
        {"do_rescale": False, "image_mean": [120.0, 130.0, 110.0], "image_std": [60.0, 50.0, 70.0]},
        {"rescale_factor": 1 / 127.5},
        {"do_normalize": False},
        {"do_normalize": False, "do_rescale": False},
        {"do_rescale": None, "do_convert_rgb": True},
    ],
)
def test_switches_of_a_processor_are_followed_as_transformers_does(change, tmp_path):
    folder = checkpoints.save("clip", tmp_path / "clip", **change)
    teacher, image = loaded(f"{folder}:pooler", Layout(tmp_path / "data")), photo(24, 24)
    pil = transformers.CLIPImageProcessorPil.from_pretrained(folder)
    expected = pil(Image.fromarray(image), return_tensors="pt")["pixel_values"]
    found = teacher.present(unit(planes(image[None])), None, None)
    torch.testing.assert_close(found, expected.float(), rtol=1e-4, atol=1e-4)


def test_a_model_and_a_processor_of_different_sizes_are_refused(tmp_path):
    folder = checkpoints.save("clip", tmp_path / "clip", size={"shortest_edge": 32}, crop_size=32)
    with pytest.raises(DataError, match=r"config\.json says images of 24 pixels, preprocessor_config\.json 32"):
        loaded(f"{folder}:pooler", Layout(tmp_path / "data"))


@pytest.mark.parametrize("name", ["vit-l16-in21k:medium", "UPPER=vit-l16-in21k", "digits-vit-s=vit-l16-in21k", "a=b"])
def test_names_that_say_nothing_are_refused(name):
    with pytest.raises(InputError, match=name.split("=")[0].split(":")[0]):
        teachers.get(name)


def test_a_name_of_ones_own_stands_in_paths_and_tables(folders):
    spec = teachers.get(f"mine={folders['clip']}:mean")
    assert (spec.name, spec.title, spec.output) == ("mine", "mine", "mean")
    assert spec.identity() == teachers.get(str(folders["clip"])).identity()
