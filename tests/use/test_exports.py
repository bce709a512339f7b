"""Exports: other programs compute from them what the student computes."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import clipkd as package
from clipkd.core.errors import DataError, InputError
from clipkd.core.typed_json import read_model
from clipkd.export import formats as exports
from clipkd.export.model import load
from clipkd.export.model_card import card
from clipkd.export.source import ExportSource
from clipkd.export.write import epochs_of, export
from clipkd.plugins import students
from clipkd.runs.folder import load_student, save_student
from clipkd.runs.record import Metrics
from clipkd.runs.verification import verify


@pytest.fixture(scope="module")
def exported(run_folder, digits_folder, tmp_path_factory) -> dict[str, Path]:
    """Format -> its export of the run."""
    root = tmp_path_factory.mktemp("exports")
    return {
        name: export(run_folder, exports.get(name), root / name, digits_folder, "mit")
        for name in ("safetensors", "hf", "onnx")
    }


@pytest.mark.parametrize("name", ["safetensors", "hf"])
def test_load_reads_it_back(name, exported, run_folder, scans) -> None:
    before, after = package.load(run_folder), package.load(exported[name])
    np.testing.assert_array_equal(after.probabilities(scans), before.probabilities(scans))
    assert (after.classes, after.preprocessing) == (before.classes, before.preprocessing)
    assert after.trained["fingerprint"] == json.loads((run_folder / "metrics.json").read_text())["fingerprint"]


def test_onnx_runtime_computes_what_pytorch_computes(exported, run_folder, scans) -> None:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(exported["onnx"] / "model.onnx"))
    pixels = np.stack([np.asarray(Image.open(path)) for path in scans])
    model = package.load(run_folder)
    for size in (1, 5, 20):
        logits, probabilities, embedding = session.run(None, {"images": pixels[:size]})
        np.testing.assert_allclose(probabilities, model.probabilities(scans[:size]), atol=1e-5)
        np.testing.assert_allclose(embedding, model.embed(scans[:size]), atol=1e-4)
        shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
        np.testing.assert_allclose(shifted / shifted.sum(axis=1, keepdims=True), probabilities, atol=1e-5)
    facts = json.loads((exported["onnx"] / "config.json").read_text())["onnx"]
    assert facts["images"] == 64
    assert 0 <= facts["largest_difference"] < 1e-4
    with pytest.raises(InputError, match="no PyTorch weights"):
        package.load(exported["onnx"])


@pytest.mark.slow
@pytest.mark.parametrize("method", ["dynamic", pytest.param("static", marks=pytest.mark.long)])
def test_the_8_bit_graph_is_measured_on_the_test_split(
    method, here, run_folder, digits_folder, digits, tmp_path, monkeypatch
) -> None:
    """What the card and config.json say of it is what ONNX Runtime gives for every test image."""
    import onnxruntime

    if method == "static":  # as for a student whose weights are those of convolutions
        monkeypatch.setattr("clipkd.export.int8.is_convolutional", lambda graph: True)
    answer = here("export", run_folder, "out", "--format", "onnx", "--int8", "--data", digits_folder)
    assert answer.returncode == 0, answer.stderr
    facts = json.loads((tmp_path / "out/config.json").read_text())["onnx"]["int8"]
    pixels = np.stack([np.asarray(digits.image("test", row)) for row in range(len(digits.test_labels))])
    scores = {
        name: onnxruntime.InferenceSession(str(tmp_path / "out" / name)).run(["logits"], {"images": pixels})[0]
        for name in ("model.onnx", "model_int8.onnx")
    }
    expected = package.load(run_folder).outputs(list(pixels), 64, lambda outputs: outputs.logits).argmax(axis=1)
    found = scores["model_int8.onnx"].argmax(axis=1)
    assert (facts["method"], facts["test_images"]) == (method, len(digits.test_labels))
    assert facts["agreement"] == pytest.approx((found == expected).mean(), abs=1.5 / len(pixels))
    assert facts["top1"] == pytest.approx((found == digits.test_labels).mean(), abs=1.5 / len(pixels))
    assert facts["agreement"] > 0.9  # it differs by the processor that trained the student: 0.949 on a Zen 3
    card = (tmp_path / "out/README.md").read_text()
    assert f"| same class as float32, % | | {100 * facts['agreement']:.2f} |" in card
    assert f"| {100 * facts['student_top1']:.2f} | {100 * facts['top1']:.2f} |" in card
    if method == "dynamic":  # this student's weights are those of matrix products
        assert facts["bytes"] < 0.5 * facts["float32_bytes"]
        assert np.abs(scores["model_int8.onnx"] - scores["model.onnx"]).max() > 1e-4  # it is rounded


@pytest.mark.long
def test_convolutions_are_told_from_matrix_products(exported, run_folder, tmp_path) -> None:
    from clipkd.export import int8
    from clipkd.export.formats.onnx import write_graph

    network = students.get("timm:test_resnet@32").network(5, None, "teacher", learnable_scale=False).eval()
    write_graph(replace(package.load(run_folder, "cpu"), student=network), tmp_path / "cnn.onnx")
    assert int8.is_convolutional(tmp_path / "cnn.onnx")
    assert not int8.is_convolutional(exported["onnx"] / "model.onnx")
    noise = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), np.uint8)
    assert int8.quantise(tmp_path / "cnn.onnx", tmp_path / "small.onnx", iter([noise])) == "static"
    assert (tmp_path / "small.onnx").stat().st_size < 0.5 * (tmp_path / "cnn.onnx").stat().st_size


def test_8_bits_need_onnx_and_the_test_split(here, run_folder, digits_folder, scans, tmp_path) -> None:
    for arguments, message in (
        (("--format", "hf"), "--int8 is for --format onnx, not hf"),
        (
            ("--format", "onnx", "--check-on", *scans),
            "int8 is measured on the run's own test images: dataset 'digits' is not below --data",
        ),
    ):
        answer = here("export", run_folder, "out", "--int8", *arguments)
        assert (answer.returncode, message in answer.stderr) == (2, True), answer.stderr
    answer = here("export", run_folder, "out", "--format", "safetensors", "--check-on", scans[0])
    assert (answer.returncode, "--check-on is for --format onnx" in answer.stderr) == (2, True), answer.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["tiny-32", "timm:test_resnet@32"])
def test_torch_export_takes_a_student_as_it_is(name, tmp_path) -> None:
    """With any batch size, saved and opened again, and with both outputs."""
    spec = students.get(name)
    student = spec.network(5, 7, "student", learnable_scale=True).eval()
    shapes = {"images": {0: torch.export.Dim("batch", min=1)}}
    program = torch.export.export(student, (torch.zeros(2, 3, 32, 32),), dynamic_shapes=shapes)
    torch.export.save(program, tmp_path / "student.pt2")
    opened = torch.export.load(tmp_path / "student.pt2").module()
    for batch in (1, 5):
        images = torch.randn(batch, 3, 32, 32)
        with torch.inference_mode():
            found, expected = opened(images), student(images)
        torch.testing.assert_close(found.logits, expected.logits, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(found.embedding, expected.embedding, atol=1e-5, rtol=1e-5)


@pytest.mark.long
def test_an_onnx_graph_that_differs_is_not_kept(run_folder, scans, tmp_path, monkeypatch) -> None:
    """The control of the comparison: a graph of other weights, written by the same exporter."""
    from clipkd.export.formats import onnx

    honest = onnx.write_graph

    def nudged(model, path) -> None:
        weights = {name: tensor.clone() for name, tensor in model.student.state_dict().items()}
        model.student.classifier.bias.data[0] += 0.01
        honest(model, path)
        model.student.load_state_dict(weights)

    monkeypatch.setattr(onnx, "write_graph", nudged)
    with pytest.raises(DataError, match="does not match the student"):
        export(run_folder, exports.get("onnx"), tmp_path / "out", tmp_path, images=scans)
    assert list(tmp_path.iterdir()) == []


def test_onnx_without_images_to_check_on_is_refused(here, run_folder, tmp_path, scans) -> None:
    for images, message in (
        ((), "--check-on"),
        (scans[:6], "7 images, but --check-on names 6: add 1 more"),
    ):
        with pytest.raises(InputError, match=message):
            export(run_folder, exports.get("onnx"), tmp_path / "out", tmp_path, images=images)
    assert list(tmp_path.iterdir()) == []
    answer = here("export", run_folder, "out", "--format", "onnx", "--check-on", "nosuch.png")
    assert (answer.returncode, "image nosuch.png does not exist" in answer.stderr) == (2, True), answer.stderr


@pytest.mark.parametrize(
    "name",
    [
        "tiny-32", "timm:resnet18@32", "timm:test_vit@32", "timm:test_convnext@64", "timm:mobilenetv3_small_050@32",
        "timm:deit_tiny_distilled_patch16_224@32",
    ],
)  # fmt: skip
def test_weights_go_to_timm_and_back(name) -> None:
    """timm's own model gives the student's scores; what only distillation uses is kept."""
    from clipkd.plugins.students._timm_names import from_timm, timm_form, to_timm, whole

    spec = students.get(name)
    student = spec.network(5, 7, "student", learnable_scale=True).eval()
    student.add_logit_biases()
    with torch.no_grad():  # weights that all matter
        for parameter in student.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    state = student.state_dict()
    there, aside = to_timm(state, spec)
    assert aside.keys() == {"cluster_projection.weight", "cluster_projection.bias", "logit_scale", "logit_bias"}
    theirs = whole(timm_form(spec), 5).eval()
    theirs.load_state_dict(there)
    inputs = torch.randn(3, 3, spec.image_size, spec.image_size)
    with torch.inference_mode():
        torch.testing.assert_close(theirs(inputs), student(inputs).logits, atol=1e-5, rtol=1e-5)
    back = from_timm(there, aside, spec)
    assert back.keys() == state.keys()
    assert all(torch.equal(back[key], tensor) for key, tensor in state.items())


def test_a_classifier_that_timm_computes_otherwise_is_not_exported(run_folder, tmp_path, monkeypatch) -> None:
    from clipkd.plugins.students import _timm_names as timm_names

    honest = timm_names.to_timm

    def nudged(state, spec):
        found, aside = honest(state, spec)
        found["head.bias"] = found["head.bias"] + 0.01
        return found, aside

    monkeypatch.setattr(timm_names, "to_timm", nudged)
    with pytest.raises(InputError, match="does not compute what the student computes"):
        export(run_folder, exports.get("hf"), tmp_path / "out", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_card_s_numbers_are_the_run_s(exported, run_folder) -> None:
    from huggingface_hub import ModelCard

    metrics = json.loads((run_folder / "metrics.json").read_text())
    text = (exported["hf"] / "README.md").read_text()
    card = ModelCard(text).data
    assert (card.license, card.pipeline_tag) == ("mit", "image-classification")
    found = {result.metric_name: result.metric_value for result in card.eval_results}
    score = metrics["selected"]["test"]
    assert found == {f"top-{k} accuracy": pytest.approx(score[f"top{k}"], abs=1e-6) for k in (1, 5)}
    assert f"| top-1, % | {100 * score['top1']:.2f} | {100 * score['top1']:.2f} (1) |" in text
    for part in (metrics["fingerprint"], "Digits", "One seed gives no idea", "these 10 classes only", "seed 0"):
        assert part in text, part
    assert "turns an image as its EXIF data say and lays on white what is transparent" in text


@pytest.mark.parametrize(
    ("by", "images", "last", "why"),
    [
        ("validation", 180, 8, None),
        ("validation", 40, 8, "40 validation images are too few to choose by"),
        ("validation", 40, 3, None),
        ("test", 0, 8, "the test split chose the other"),
    ],
)
def test_where_the_tables_compare_another_epoch_the_card_and_the_command_say_so(by, images, last, why, run_folder):
    """Both epochs with their accuracies; the selected one is exported."""
    metrics = read_model(run_folder / "metrics.json", Metrics)

    def at(epoch: int, top1: float) -> dict:
        return {"epoch": epoch, "test": metrics.last.test.model_copy(update={"top1": top1})}

    chosen = {"selected": metrics.selected.model_copy(update=at(3, 0.625) | {"by": by})}
    chosen |= {"last": metrics.last.model_copy(update=at(last, 0.75)), "validation_images": images}
    metrics = metrics.model_copy(update=chosen)
    said = epochs_of(metrics)
    assert said.startswith("epoch 3 of 8, test accuracy 62.50 %")
    whole = card(ExportSource(package.load(run_folder), metrics, run_folder, "other", []), "hf")
    assert "without a teacher (train type supervised) by clipkd" in whole.replace("\\", "")
    note = f"compare the last epoch, 8, because {why}: top-1 75.00 % there, 62.50 % in epoch 3, which is exported."
    for text in (whole.replace("\\", ""), said):
        assert (note in text) == bool(why), text
        assert ("last epoch" in text) == bool(why)


def test_the_card_counts_the_weights_that_classify(run_folder):
    """A projection to a teacher's space is used in training only, and is not in an export's network."""
    model, metrics = package.load(run_folder), read_model(run_folder / "metrics.json", Metrics)
    plain = sum(weight.numel() for weight in model.student.parameters())
    projecting = students.get("tiny-32").network(10, 16, "student", learnable_scale=True)
    assert sum(weight.numel() for weight in projecting.parameters()) > plain
    whole = card(ExportSource(replace(model, student=projecting), metrics, run_folder, "other", []), "hf")
    assert f"classifier of {plain:,} parameters" in whole


def test_the_card_says_that_few_validation_images_chose_no_epoch(run_folder):
    metrics = read_model(run_folder / "metrics.json", Metrics)
    kept = metrics.selected.model_copy(update={"epoch": 8, "by": "last"})
    metrics = metrics.model_copy(update={"selected": kept, "last": kept, "validation_images": 40})
    whole = card(ExportSource(package.load(run_folder), metrics, run_folder, "other", []), "hf")
    assert f"Epoch 8 of {metrics.epochs}, the last: 40 validation images are too few to choose one. Seeds" in whole


@pytest.mark.parametrize("classes", [5, 6])
def test_the_card_has_a_top_5_accuracy_where_that_says_something(classes, run_folder):
    metrics, model = read_model(run_folder / "metrics.json", Metrics), package.load(run_folder)
    model = replace(model, class_names=model.names[:classes])
    whole = card(ExportSource(model, metrics, run_folder, "other", []), "hf")
    assert ("| top-5, % |" in whole) == ("top-5 accuracy" in whole) == (classes == 6)


@pytest.mark.parametrize(
    ("pack_size", "dataset_size", "said"),
    [
        (256, None, "first reduces the short side of a larger image to 256 pixels (bicubic), as in training"),
        (256, 16, "to 256 pixels (bicubic), then resizes it to 16 x 16 pixels, the size of the training images, as in"),
        (None, 16, "clipkd first resizes an image to 16 x 16 pixels"),
        (None, 32, ""),
    ],
)
@pytest.mark.parametrize(("form", "others"), [("hf", "timm and transformers leave"), ("onnx", "the code above leaves")])
def test_the_card_has_one_line_on_what_comes_before_the_student_s_size(
    pack_size, dataset_size, said, form, others, run_folder
):
    metrics, model = read_model(run_folder / "metrics.json", Metrics), package.load(run_folder)
    assert model.preprocessing.size == 32
    steps = replace(model.preprocessing, pack_size=pack_size, dataset_size=dataset_size)
    whole = card(ExportSource(replace(model, preprocessing=steps), metrics, run_folder, "other", []), form)
    whole = whole.replace("\\", "")
    assert whole.count("clipkd first") == bool(said)
    assert (said in whole, others in whole) == (True, bool(said))


@pytest.mark.parametrize("labels", [None, 100])
def test_the_card_counts_the_seeds_that_lie_beside_it(labels, run_folder, tmp_path) -> None:
    """Three runs that differ in the seed only, and in what it chose; one that differs in more."""
    base = json.loads((run_folder / "metrics.json").read_text())
    shutil.copytree(run_folder, tmp_path / "seed0")
    if labels:
        base |= {"labelled_images": 80, "validation_images": 20}
    for seed, top1, rate in ((0, None, None), (1, 0.5, None), (2, 0.9, None), (3, 0.9, 1.0)):
        other = json.loads(json.dumps(base))
        other["cell"]["seed"] = other["identity"]["cell"]["seed"] = seed
        if labels:
            of_seed = {"few_labels": {"labels": labels, "seed": seed}}
            settings = f"{seed}" * 16
            other["identity"] |= of_seed | {"signal": {"head": {"teacher": {"run": settings}} | of_seed}}
            name = f"first=run:corrected/digits/tiny-32/none/supervised-100-labels/seed{seed}@{settings}"
            other["cell"]["teacher"] = other["identity"]["cell"]["teacher"] = name
        other["selected"]["test"] |= {"top1": top1, "top5": 1.0} if top1 else {}
        other["identity"]["training"]["learning_rate"] = rate or base["identity"]["training"]["learning_rate"]
        (tmp_path / f"seed{seed}").mkdir(exist_ok=True)
        (tmp_path / f"seed{seed}/metrics.json").write_text(json.dumps(other))
    metrics = read_model(tmp_path / "seed0/metrics.json", Metrics)
    text = card(ExportSource(package.load(run_folder), metrics, tmp_path / "seed0", "other", []), "hf")
    three = np.array([base["selected"]["test"]["top1"], 0.5, 0.9]) * 100
    assert f"{three.mean():.2f} ± {three.std(ddof=1):.2f} (3)" in text
    assert "Seeds: 0, 1, 2." in text
    assert ("of which it saw the labels of 100 images" in text) == bool(labels)
    assert ("run:corrected/digits/tiny-32/none/supervised-100-labels/seed0" in text) == bool(labels)
    assert "None was given at export" in text


def test_an_export_again_tells_of_the_seeds_trained_since(here, run_folder, tmp_path) -> None:
    """The run is the same, and what its card says of others is not."""
    shutil.copytree(run_folder, tmp_path / "runs/seed0")
    assert here("export", "runs/seed0", "out", "--format", "hf").returncode == 0
    assert "Seeds: 0." in (tmp_path / "out/README.md").read_text()
    other = json.loads((run_folder / "metrics.json").read_text())
    other["cell"]["seed"] = other["identity"]["cell"]["seed"] = 1
    (tmp_path / "runs/seed1").mkdir()
    (tmp_path / "runs/seed1/metrics.json").write_text(json.dumps(other))
    assert here("export", "runs/seed0", "out", "--format", "hf").returncode == 0
    assert "Seeds: 0, 1." in (tmp_path / "out/README.md").read_text()
    (tmp_path / "runs/seed1/metrics.json").write_text("{")
    damaged = here("export", "runs/seed0", "out", "--format", "hf")
    assert "not among the seeds of the model card: runs/seed1/metrics.json is damaged" in damaged.stderr
    assert damaged.returncode == 0
    assert "Seeds: 0." in (tmp_path / "out/README.md").read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "runs"]


def test_the_onnx_card_s_code_runs(exported, scans, tmp_path, monkeypatch) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", (exported["onnx"] / "README.md").read_text(), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    shutil.copy(scans[0], tmp_path / "image.png")
    space: dict = {}
    exec(block.replace("FOLDER", str(exported["onnx"])), space)
    np.testing.assert_allclose(space["probabilities"], package.load(exported["hf"]).probabilities(scans[0]), atol=1e-5)
    labels = json.loads((exported["onnx"] / "config.json").read_text())["label_names"]
    assert labels == package.load(exported["hf"]).names


def test_the_card_s_code_runs(exported, scans, tmp_path, monkeypatch) -> None:
    """timm's and transformers' own code, given nothing but the folder, computes the student's scores and labels."""
    from clipkd.core.vision import torchvision  # noqa: F401  (both import it)

    folder, model = exported["hf"], package.load(exported["hf"])
    blocks = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    assert len(blocks) == 3
    monkeypatch.chdir(tmp_path)
    for path in scans[:3]:
        shutil.copy(path, tmp_path / "image.png")
        space: dict = {}
        with torch.inference_mode():
            for block in blocks:
                exec(block.replace("FOLDER", str(folder)), space)
        probabilities = space["scores"].softmax(dim=1)[0].numpy()
        np.testing.assert_allclose(probabilities, model.probabilities(path)[0], atol=1e-5)
        np.testing.assert_allclose(space["embedding"].numpy(), model.embed(path), atol=1e-4)
        expected = model.predict(path)[0]
        assert [one["label"] for one in space["predictions"]] == [one.label for one in expected]
        np.testing.assert_allclose(
            [one["score"] for one in space["predictions"]], [one.probability for one in expected], atol=1e-5
        )


def test_a_name_can_t_break_out_of_the_card(run_folder) -> None:
    from huggingface_hub import ModelCard

    model = package.load(run_folder)
    evil = [
        "<script>alert(1)</script>",
        "a | b\n# c",
        "---\nx: 1",
        "[k](javascript:1)",
        "{{ cell }}",
        *model.classes[5:],
    ]
    metrics = read_model(run_folder / "metrics.json", Metrics)
    name = "x: [\n---\n<b>"
    metrics = metrics.model_copy(update={"cell": metrics.cell.model_copy(update={"dataset": name})})
    source = ExportSource(replace(model, class_names=[*evil, *model.classes[5:]]), metrics, run_folder, "other", [])
    whole = card(source, "hf")
    text = whole.split("\n---\n", 1)[1]
    assert "<script" not in text
    assert "<b>" not in text
    assert not re.search(r"^(# c|---)$", text, re.MULTILINE)
    assert "[k](javascript" not in text
    assert r"{{ cell }}" in text
    (result,) = {one.dataset_type for one in ModelCard(whole).data.eval_results}
    assert result == name


def test_an_export_replaces_nothing_but_an_unchanged_export(here, run_folder, tmp_path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.tex").write_text("years of work")

    def refused(message: str, *arguments, code: int = 2) -> None:
        answer = here("export", *arguments)
        assert (answer.returncode, message in answer.stderr) == (code, True), answer.stderr

    refused("mine is not empty and not an export", run_folder, "mine", "--format", "hf")
    assert (tmp_path / "mine/thesis.tex").read_text() == "years of work"
    answer = here("export", run_folder, "out", "--format", "hf")
    assert (answer.returncode, answer.stdout) == (0, "out\n"), answer.stderr
    refused("out is an export in format hf", run_folder, "out", "--format", "safetensors")
    assert here("export", run_folder, "out", "--format", "hf", "--license", "mit").returncode == 0
    with (tmp_path / "out/README.md").open("a") as stream:
        stream.write("Mine.\n")
    refused("out/README.md was changed after the export", run_folder, "out", "--format", "hf")
    assert (tmp_path / "out/README.md").read_text().endswith("Mine.\n")
    refused("error: /proc/out: ", run_folder, "/proc/out", "--format", "safetensors", code=4)
    refused("out is an export; give the run folder", "out", "again", "--format", "hf")
    refused("'pickle'", run_folder, "out", "--format", "pickle")


def test_verify_compares_every_file_of_an_export(exported, tmp_path) -> None:
    out = Path(shutil.copytree(exported["hf"], tmp_path / "out"))
    sound = verify([out])
    assert (sound.damaged, sound.sound, sound.files) == ([], 1, len(list(out.iterdir())) - 1)
    card = (out / "README.md").read_text()
    (out / "README.md").write_text(card.replace("seed", "sead"))
    assert ["README.md is damaged" in problem for problem in verify([tmp_path]).damaged] == [True]


@pytest.mark.parametrize("output", ["logits", "probabilities", "embedding"])
@pytest.mark.parametrize("wrong", [float("nan"), 0.01])
def test_each_output_of_a_graph_is_compared(output, wrong, run_folder, scans, monkeypatch) -> None:
    from clipkd.export.formats import onnx

    model = load(run_folder)

    class Session:
        """Gives the student's own outputs, but for one number."""

        def run(self, names, inputs):
            found = model.student(model.preprocessing.inputs(list(inputs["images"]), model.device))
            outputs = {
                "logits": found.logits,
                "probabilities": found.logits.softmax(dim=1),
                "embedding": found.embedding,
            }
            outputs[output][0, 0] += wrong * max(1.0, outputs[output].abs().max().item())
            return [outputs[name].numpy() for name in names]

    monkeypatch.setattr("clipkd.export.onnx_session.opened", lambda path: Session())
    with torch.inference_mode(), pytest.raises(DataError, match=f"does not match the student: {output} differ"):
        onnx.compare(model, run_folder / "model.onnx", scans)


def test_a_classifier_of_another_shape_is_refused_in_words(run_folder, tmp_path, monkeypatch) -> None:
    from clipkd.plugins.students import _timm_names as timm_names

    def misfit(state, spec):
        return state["classifier.weight"].reshape(1, 2, 3), {}

    monkeypatch.setattr(timm_names, "to_timm", misfit)
    with pytest.raises(InputError, match=r"does not compute what the student computes.* \(shape '\[1, 2, 3\]'"):
        export(run_folder, exports.get("hf"), tmp_path / "out", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_student_that_uses_a_weight_twice_is_saved(tmp_path) -> None:
    shared = torch.ones(3)
    save_student({"a": shared, "b": shared}, tmp_path / "student.safetensors")
    assert load_student(tmp_path / "student.safetensors").keys() == {"a", "b"}
