"""Class names as teachers: a CLIP text tower against transformers used plainly; zero-shot; classes added by name."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from clipkd.core.artifacts import open_artifact
from clipkd.core.errors import DataError, InputError
from clipkd.data.dataset import open_dataset
from clipkd.embeddings import prepare
from clipkd.embeddings.text import load_text
from clipkd.embeddings.zero_shot import zero_shot
from clipkd.export import open_classes
from clipkd.plugins import datasets, recipes, teachers
from clipkd.plugins.students._heads import Heads, Outputs
from clipkd.runs.job import open_job, open_teacher_targets
from clipkd.runs.nearest_prototype import nearest_prototype
from clipkd.runs.teacher_targets import PrototypeTargets
from clipkd.spec import class_names
from clipkd.spec.cells import Cell
from clipkd.spec.layout import Layout
from clipkd.spec.prompts import TEMPLATES, prompts
from clipkd.spec.refusals import checked
from clipkd.spec.settings import Hyperparameters
from tests import checkpoints
from tests.synthetic import metrics_of
from tests.warm import clipkd

import transformers  # isort: skip

CPU = torch.device("cpu")
SENTENCES = ("a photo of a {}.", "this is the {}.")


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return checkpoints.save("clip", tmp_path_factory.mktemp("text") / "clip")


@pytest.fixture
def layout(digits_folder, tmp_path):
    """A data folder of the test's own, with the packed digits in it."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data/datasets").symlink_to(digits_folder / "datasets")
    return Layout(tmp_path / "data", dtype="float32", templates=SENTENCES)


def cell_of(clip, recipe="corrected", train_type="embed-KD", **changes):
    return checked(Cell(recipe, "digits", "tiny-32", f"{clip}:text", train_type, 0, **changes))


def by_transformers(clip, text):
    """Return the text embedding by transformers alone: word numbers written out by hand, CLIPModel, its projection."""
    words = {word: number for number, word in enumerate(["<unk>", "<s>", *checkpoints.WORDS.split(), "</s>"])}
    split = text.lower().replace(".", " .").split()
    ids = [1, *(words[word] for word in split), len(words) - 1]
    model = transformers.CLIPModel.from_pretrained(clip).eval()
    with torch.no_grad():
        hidden = model.text_model(input_ids=torch.tensor([ids])).last_hidden_state[0, -1]
        return model.text_projection(hidden).numpy()


def test_prototypes_are_the_ensemble_of_the_prompts(clip, layout):
    cell = cell_of(clip)
    prepare.for_training(cell, layout, CPU)
    folder, identity = layout.prototypes(cell)
    found = open_artifact(folder, "prototypes", identity)
    assert found.array("prototypes").shape == (10, checkpoints.SHARED)
    for number, name in ((0, "0"), (7, "7")):
        each = [by_transformers(clip, text) for text in (f"a photo of a {name}.", f"this is the {name}.")]
        mean = sum(vector / np.linalg.norm(vector) for vector in each) / 2
        np.testing.assert_allclose(found.array("prototypes")[number], mean / np.linalg.norm(mean), atol=2e-5)
    # The control: another class's prompts are not these.
    assert abs(found.array("prototypes")[0] - found.array("prototypes")[7]).max() > 0.01
    assert found.facts["class_names"] == [str(digit) for digit in range(10)]
    assert found.facts["templates"] == list(SENTENCES)
    assert identity["embeddings"]["views"]["templates"] == list(SENTENCES)
    reference, _ = layout.prototypes(cell_of(clip, "reference"))
    assert reference != folder


def test_templates_and_checkpoint_are_in_the_fingerprint(clip, layout, tmp_path):
    cell = cell_of(clip)
    other = dataclasses.replace(layout, templates=("a {}.",))
    assert layout.sample_embeddings(cell).folder != other.sample_embeddings(cell).folder
    again = checkpoints.save("clip", tmp_path / "again")
    weights = load_file(again / "model.safetensors")
    weights["text_projection.weight"] += 1
    save_file(weights, again / "model.safetensors", metadata={"format": "pt"})
    changed = layout.sample_embeddings(cell_of(again))
    assert changed.folder.name != layout.sample_embeddings(cell).folder.name


def test_a_changed_class_name_is_found(clip, layout):
    cell = cell_of(clip)
    prepare.for_training(cell, layout, CPU)
    job = open_job(cell, Hyperparameters(), layout, CPU)
    open_teacher_targets(job)
    job.dataset.artifact.manifest["facts"]["classes"] = ["zero", *job.dataset.classes[1:]]
    with pytest.raises(DataError, match="made from other class names"):
        open_teacher_targets(job)


ENGLISH = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


def called(layout, names):
    """Return the layout, and what the digits are called in it."""
    return dataclasses.replace(layout, class_names=(("digits", class_names.read(names, "class_names.digits")),))


def test_the_prompts_hold_the_names_that_the_user_gives(clip, layout):
    cell, english = cell_of(clip), called(layout, ENGLISH)
    for one in (layout, english):
        prepare.for_training(cell, one, CPU)
    folder, identity = english.prototypes(cell)
    assert folder != layout.prototypes(cell)[0]
    found = open_artifact(folder, "prototypes", identity)
    each = [by_transformers(clip, text) for text in ("a photo of a seven.", "this is the seven.")]
    mean = sum(vector / np.linalg.norm(vector) for vector in each) / 2
    np.testing.assert_allclose(found.array("prototypes")[7], mean / np.linalg.norm(mean), atol=2e-5)
    # The control: the prompts with the dataset's own name are others.
    plain = open_artifact(layout.prototypes(cell)[0], "prototypes").array("prototypes")
    assert abs(found.array("prototypes")[7] - plain[7]).max() > 0.01
    assert found.facts["class_names"] == ENGLISH
    job = open_job(cell, Hyperparameters(), english, CPU)
    open_teacher_targets(job)
    assert job.facts()["class_names"] == ENGLISH
    assert job.facts()["classes"] == [str(digit) for digit in range(10)]
    assert job.identity != open_job(cell, Hyperparameters(), layout, CPU).identity


@pytest.mark.parametrize(
    ("teacher", "train_type"), [("none", "supervised"), ("digits-vit-s", "embed-KD"), ("digits-vit-s", "teacher-KD")]
)
def test_names_make_nothing_again_that_reads_no_text(teacher, train_type, layout):
    cell = checked(Cell("corrected", "digits", "tiny-32", teacher, train_type, 0))
    plain, english = (open_job(cell, Hyperparameters(), one, CPU) for one in (layout, called(layout, ENGLISH)))
    assert plain.identity == english.identity
    assert plain.dataset.artifact.path == english.dataset.artifact.path


def test_names_of_other_classes_are_refused_before_training(clip, layout):
    wrong = called(layout, dict(zip("012345678", ENGLISH[:9], strict=True)))
    with pytest.raises(InputError, match=r"class_names\.digits: no name for '9'"):
        open_job(cell_of(clip), Hyperparameters(), wrong, CPU)


def test_texts_of_any_length_share_a_batch(clip, layout):
    spec = teachers.get(f"{clip}:text")
    prepare.teacher(spec, layout, CPU)
    tower = load_text(spec, layout.teacher(spec), CPU)
    texts = ["a cat", "this is a photo of the zebra .", "dog"]
    for text, vector in zip(texts, tower.embed(texts), strict=True):
        np.testing.assert_allclose(vector, by_transformers(clip, text), atol=1e-5)


# Of a text with capitals and punctuation: the words that each family was trained to be shown, and what fills them up.
SIGLIP_READS = {
    "siglip": (["<pad>", "</s>", "<unk>", *checkpoints.WORDS.split()], "this is a photo of the zebra </s>", "</s>"),
    "siglip2": (
        ["<pad>", "<eos>", "<unk>", *checkpoints.WORDS.split()[:-1], "</s>"],
        "this is a photo of the zebra <unk> <eos>",
        "<pad>",
    ),
}


@pytest.mark.parametrize("family", SIGLIP_READS)
def test_a_siglip_says_what_transformers_says(family, layout, tmp_path):
    """Against get_text_features of token numbers written out by hand, filled up to the whole length, no mask."""
    folder = checkpoints.save(family, tmp_path / family)
    vocabulary, words, filling = SIGLIP_READS[family]
    spec = teachers.get(f"{folder}:text")
    prepare.teacher(spec, layout, CPU)
    tower = load_text(spec, layout.teacher(spec), CPU)
    model = transformers.AutoModel.from_pretrained(folder).eval()

    def features(ids, length=20):
        filled = ids + [vocabulary.index(filling)] * (length - len(ids))
        with torch.no_grad():
            return model.get_text_features(input_ids=torch.tensor([filled])).pooler_output[0].numpy()

    ids = [vocabulary.index(word) for word in words.split()]
    short = [vocabulary.index(word) for word in ("dog", words.split()[-1])]
    long_text, short_text = tower.embed(["This is a photo of the ZEBRA.", "dog"])
    np.testing.assert_allclose(long_text, features(ids), atol=1e-5)
    np.testing.assert_allclose(short_text, features(short), atol=1e-5)
    # The controls: filled up only to the longest of the batch, or with another token, it is another vector.
    assert abs(features(short, len(ids)) - short_text).max() > 0.01
    assert long_text.shape == (checkpoints.WIDTH,)


@pytest.mark.parametrize("family", SIGLIP_READS)
def test_a_siglip_is_a_teacher_by_its_class_names(family, layout, tmp_path):
    cell = cell_of(checkpoints.save(family, tmp_path / family))
    prepare.for_training(cell, layout, CPU)
    folder, identity = layout.prototypes(cell)
    prototypes = open_artifact(folder, "prototypes", identity).array("prototypes")
    assert prototypes.shape == (10, checkpoints.WIDTH)
    np.testing.assert_allclose(np.linalg.norm(prototypes, axis=1), 1, atol=1e-5)


def test_zero_shot_of_a_siglip_is_that_of_the_whole_model(layout, tmp_path):
    siglip = checkpoints.save("siglip", tmp_path / "siglip")
    cell = cell_of(siglip)
    prepare.for_training(cell, layout, CPU)
    prepare.for_training(
        dataclasses.replace(cell, teacher=f"{siglip}:pooler", train_type="teacher-KD"), layout, CPU, 256
    )
    digits = open_dataset(datasets.get("digits"), layout.dataset(datasets.get("digits")))
    folder, identity = layout.prototypes(cell)
    found = zero_shot(cell, layout, digits, open_artifact(folder, "prototypes", identity).array("prototypes"))
    model = transformers.SiglipModel.from_pretrained(siglip).eval()
    vocabulary = SIGLIP_READS["siglip"][0]
    names = []
    for name in digits.classes:
        texts = [f"a photo of a {name} </s>".split(), f"this is the {name} </s>".split()]
        ids = torch.tensor([[vocabulary.index(word) for word in (text + ["</s>"] * 20)[:20]] for text in texts])
        with torch.no_grad():
            each = model.get_text_features(input_ids=ids).pooler_output
        names.append((each / each.norm(dim=1, keepdim=True)).mean(dim=0))
    images = [Image.fromarray(image).resize((24, 24), Image.Resampling.BICUBIC) for image in digits.images("test")]
    pixels = (np.stack([np.asarray(image) for image in images]) / 255 - checkpoints.MEAN) / checkpoints.STD
    with torch.no_grad():
        shown = torch.tensor(pixels.transpose(0, 3, 1, 2), dtype=torch.float32)
        seen = model.get_image_features(pixel_values=shown).pooler_output
    directions = torch.stack(names)
    right = (seen @ (directions / directions.norm(dim=1, keepdim=True)).T).argmax(dim=1).numpy() == digits.test_labels
    assert found["top1"] == pytest.approx(float(right.mean()), abs=2.5 / len(digits.test_labels))


def test_a_prompt_that_is_too_long_is_named(clip, layout):
    spec = teachers.get(f"{clip}:text")
    prepare.teacher(spec, layout, CPU)
    tower = load_text(spec, layout.teacher(spec), CPU)
    with pytest.raises(InputError, match=r"'cat cat .* has 42 tokens, .* takes 20"):
        tower.embed(["cat " * 40])


def test_a_tokenizer_of_another_model_is_refused(tmp_path):
    folder = checkpoints.save("clip", tmp_path / "clip")
    foreign = json.loads((folder / "tokenizer.json").read_text())
    foreign["model"]["vocab"]["cat"] = 5000
    (folder / "tokenizer.json").write_text(json.dumps(foreign))
    spec, layout = teachers.get(f"{folder}:text"), Layout(tmp_path / "data")
    prepare.teacher(spec, layout, CPU)
    with pytest.raises(DataError, match=r"its tokenizer\.json is not its text tower's"):
        load_text(spec, layout.teacher(spec), CPU).embed(["a cat"])


def test_a_missing_weight_and_another_architecture_are_errors(tmp_path, vit_folder):
    folder = checkpoints.save("clip", tmp_path / "clip")
    weights = load_file(folder / "model.safetensors")
    del weights["text_projection.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(DataError, match=r"missing: text_projection\.weight"):
        prepare.teacher(teachers.get(f"{folder}:text"), Layout(tmp_path / "data"), CPU)
    with pytest.raises(InputError, match=r"lacks tokenizer\.json"):
        teachers.get(f"{vit_folder}:text")


def test_settings_that_build_no_tower_are_named(tmp_path):
    folder = checkpoints.save("clip", tmp_path / "clip")
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["hidden_act"] = "nope"
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"'hidden_act' in .*clip/config\.json is 'nope'; supported are gelu, "):
        prepare.teacher(teachers.get(f"{folder}:text"), Layout(tmp_path / "data"), CPU)


@pytest.mark.parametrize("train_type", ["teacher-KD", "vanilla"])
def test_a_teacher_that_sees_no_image_gives_prototypes_only(train_type, clip):
    with pytest.raises(InputError, match="reads class names, not images"):
        cell_of(clip, train_type=train_type)


def test_names_of_folders_become_words():
    assert prompts("ice_cream__cone", ("a {}.",)) == ["a ice cream cone."]
    assert len(prompts("cat", TEMPLATES)) == len(set(TEMPLATES)) >= 5


def zero_shot_by_hand(clip, layout, digits):
    """Return top-1 of CLIPModel's own image and text features, with PIL's own resizing."""
    model = transformers.CLIPModel.from_pretrained(clip).eval()
    rules = json.loads((clip / "preprocessor_config.json").read_text())
    names = []
    for name in digits.classes:
        each = [by_transformers(clip, text.replace("{}", name)) for text in SENTENCES]
        mean = sum(vector / np.linalg.norm(vector) for vector in each)
        names.append(mean / np.linalg.norm(mean))
    images = [Image.fromarray(image).resize((24, 24), Image.Resampling.BICUBIC) for image in digits.images("test")]
    pixels = np.stack([np.asarray(image) for image in images]) / 255 - np.array(rules["image_mean"])
    tensor = torch.tensor((pixels / np.array(rules["image_std"])).transpose(0, 3, 1, 2), dtype=torch.float32)
    with torch.no_grad():
        seen = model.visual_projection(model.vision_model(pixel_values=tensor).pooler_output).numpy()
    return float(np.mean(np.argmax(seen @ np.stack(names).T, axis=1) == digits.test_labels))


def test_zero_shot_is_that_of_the_whole_clip(clip, layout):
    cell = cell_of(clip)
    prepare.for_training(cell, layout, CPU)
    digits = open_dataset(datasets.get("digits"), layout.dataset(datasets.get("digits")))
    folder, identity = layout.prototypes(cell)
    prototypes = open_artifact(folder, "prototypes", identity).array("prototypes")
    assert zero_shot(cell, layout, digits, prototypes) is None, "the vision tower's embeddings are not there yet"
    vision = dataclasses.replace(cell, teacher=f"eyes={clip}:pooler", train_type="teacher-KD")
    prepare.for_training(vision, layout, CPU, 256)
    found = zero_shot(cell, layout, digits, prototypes)
    assert found["embeddings"].startswith("eyes/")
    # 8-bit rounding may turn a near tie: one image or two of 355.
    assert found["top1"] == pytest.approx(zero_shot_by_hand(clip, layout, digits), abs=2.5 / len(digits.test_labels))
    # The control: the names in another order are another accuracy.
    assert zero_shot(cell, layout, digits, np.roll(prototypes, 1, axis=0))["top1"] != found["top1"]


def test_another_pooling_of_the_vision_tower_is_no_zero_shot(clip, layout):
    cell = cell_of(clip)
    prepare.for_training(cell, layout, CPU)
    vision = dataclasses.replace(cell, teacher=f"{clip}:cls", train_type="teacher-KD")
    prepare.for_training(vision, layout, CPU, 256)
    digits = open_dataset(datasets.get("digits"), layout.dataset(datasets.get("digits")))
    assert zero_shot(cell, layout, digits, np.eye(10, checkpoints.SHARED)) is None


class Corner(Heads):
    """A student whose embedding is known: the first two pixels' colours."""

    def __init__(self, projection):
        super().__init__()
        self.add_heads(2, 2, 2, projection, learnable_scale=False)
        self.cluster_projection.weight.data = torch.tensor([[0.0, 1.0], [1.0, 0.0]])  # swaps both dimensions
        self.cluster_projection.bias.data.zero_()

    def forward(self, images):
        embedding = images[:, 0, 0, :2]
        return Outputs(embedding, self.classifier(embedding))


def pictures(*corners):
    images = torch.zeros(len(corners), 3, 4, 4)
    images[:, 0, 0, :2] = torch.tensor(corners)
    return images


@pytest.mark.parametrize("recipe", ["reference", "corrected"])
def test_nearest_prototype_accuracy_where_the_answer_is_known(recipe):
    plain = dataclasses.replace(recipes.get(recipe), logit_scale="none")
    student, signal = Corner(plain.projection), PrototypeTargets(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    inputs = pictures([0.1, 0.9], [0.8, 0.2], [0.3, 0.5], [0.2, 0.7])
    # Through the swap the classes are 0, 1, 0, 0.
    found = nearest_prototype(student, [(inputs, torch.tensor([0, 1, 1, 0]))], signal, plain)
    assert (found.top1, found.top5) == (0.75, 1.0)
    assert nearest_prototype(student, [], type("None", (), {})(), plain) is None


def test_a_class_that_was_added_is_known_by_its_prototype(clip, layout, monkeypatch):
    plain = dataclasses.replace(recipes.get("corrected"), logit_scale="none")
    identity = {"embeddings": {"views": {"templates": list(SENTENCES)}}, "form": "unit-mean"}
    spec = teachers.get(f"{clip}:text")
    classes = open_classes.OpenClasses(
        Corner("student"), plain, ("north", "east"), torch.tensor([[1.0, 0.0], [0.0, 1.0]]), spec, identity, layout
    )
    between = pictures([0.7, 0.72], [0.02, 0.9])
    assert classes.predict(between) == ["north", "north"]
    monkeypatch.setattr(open_classes.OpenClasses, "vectors", lambda self, names: np.array([[0.7, 0.7]]))
    more = classes.adding(["north east"])
    assert more.predict(between) == ["north east", "north"]
    assert more.scores(between).shape == (2, 3)
    assert classes.names == ("north", "east")
    with pytest.raises(InputError, match="class 'east' exists already"):
        classes.adding(["east"])


@pytest.fixture(scope="module")
def run(clip, digits_folder, tmp_path_factory):
    """A run of embed-KD whose teacher reads class names, made by the command line."""
    root = tmp_path_factory.mktemp("named")
    (root / "data").mkdir()
    (root / "data/datasets").symlink_to(digits_folder / "datasets")
    flags = ["--dataset-name", "digits", "--teacher-model", f"names={clip}:text", "--student", "tiny-32"]
    flags += ["--train-type", "embed-KD", "--epochs", 6, "--learning-rate", 3e-3, "--threads", 1]
    flags += [f"--template={text}" for text in SENTENCES]
    clipkd("train", *flags, cwd=root)
    return root, root / "results/runs/corrected/digits/tiny-32/names/embed-KD/seed0"


@pytest.mark.long
def test_a_run_reports_the_nearest_prototype_beside_the_classifier(run):
    _, folder = run
    metrics = json.loads((folder / "metrics.json").read_text())
    nearest, classifier = metrics["selected"]["nearest_prototype"], metrics["selected"]["test"]
    assert classifier["top1"] > 0.5
    assert nearest["top1"] > 0.5, "the contrastive term has taught the student where the names lie"
    assert metrics["zero_shot"] is None


def test_a_run_is_open_to_new_names(run, clip, monkeypatch):
    root, folder = run
    layout = Layout(root / "data")
    classes = open_classes.of_run(folder, layout, CPU)
    dataset = open_dataset(datasets.get("digits"), layout.dataset(datasets.get("digits")))
    job = open_job(Cell("corrected", "digits", "tiny-32", "none", "supervised", 0), Hyperparameters(), layout, CPU)
    from clipkd.runs.job import open_batches

    batches = list(open_batches(job, open_teacher_targets(job)).evaluation("test", None, 500))
    predicted = [name for inputs, _ in batches for name in classes.predict(inputs)]
    right = np.mean(
        [name == dataset.classes[label] for name, label in zip(predicted, dataset.test_labels, strict=True)]
    )
    metrics = json.loads((folder / "metrics.json").read_text())
    assert right == pytest.approx(metrics["selected"]["nearest_prototype"]["top1"])
    # A new name's vector is the one that training would have made of it.
    each = [by_transformers(clip, text) for text in ("a photo of a zebra.", "this is the zebra.")]
    mean = sum(vector / np.linalg.norm(vector) for vector in each)
    more = classes.adding(["zebra"])
    np.testing.assert_allclose(more.prototypes[-1].numpy(), mean / np.linalg.norm(mean), atol=2e-5)
    assert more.names == (*(str(digit) for digit in range(10)), "zebra")


def test_a_run_of_another_kind_is_not_open_to_names(tmp_path):
    cell = Cell("corrected", "digits", "tiny-32", "none", "supervised", 0)
    (tmp_path / "metrics.json").write_text(json.dumps(metrics_of(cell, 0.9, {"signal": {}})))
    with pytest.raises(InputError, match="only be added by name to a run of embed-KD"):
        open_classes.of_run(tmp_path, Layout(tmp_path), CPU)


def test_a_class_can_t_be_added_to_an_export(run, tmp_path):
    _, folder = run
    Image.fromarray(np.zeros((32, 32, 3), dtype=np.uint8)).save(tmp_path / "scan.png")
    clipkd("export", folder, tmp_path / "export", "--format", "safetensors")
    said = clipkd("predict", tmp_path / "export", tmp_path / "scan.png", "--add-class", "zebra", check=False)
    assert said.returncode == 2
    assert "is an export; to add a class, give the run folder that it was made from" in said.stderr


def test_predict_knows_a_class_that_was_added(run, tmp_path):
    """The real program: a class whose name is that of every image's nearest prototype wins; without it, digits win."""
    root, folder = run
    Image.fromarray(np.zeros((32, 32, 3), dtype=np.uint8)).save(tmp_path / "scan.png")
    flags = ["--format", "json", "--data", root / "data", "--top", 11, "--add-class", "zebra"]
    said = clipkd("predict", folder, tmp_path / "scan.png", *flags).stdout
    layout = Layout(root / "data")
    classes = open_classes.of_run(folder, layout, CPU).adding(["zebra"])
    digits = datasets.get("digits")
    black = (torch.zeros(1, 3, 32, 32) - torch.tensor(digits.mean).view(1, 3, 1, 1)) / torch.tensor(digits.std).view(
        1, 3, 1, 1
    )
    expected = classes.scores(black).softmax(dim=1)[0]
    order = [classes.names[number] for number in expected.argsort(descending=True)]
    places = [said.index(f'"{name}"') for name in order]
    assert places == sorted(places)
    assert "zebra" in order
