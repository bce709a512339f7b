"""The command line: what users type by mistake ends with one message and an exit code, never a traceback."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from clipkd.cli import VERBS, main
from clipkd.cli.verbs import verify
from clipkd.core.artifacts import write_manifest
from clipkd.core.progress import progress
from clipkd.plugins import datasets, methods, recipes, students, teachers
from tests.photos import save_photos

ROOT = Path(__file__).resolve().parents[2]
Answer = subprocess.CompletedProcess[str]
TRAIN = ("train", "--dataset-name", "digits", "--student", "tiny-32", "--threads", "1")
SUPERVISED = (*TRAIN, "--train-type", "supervised", "--epochs", "1", "--batch-size", "256")


@pytest.fixture
def clipkd(tmp_path: Path):
    """Run `python -m clipkd` as a process in an empty folder."""

    def run(*arguments: str | Path, python: tuple[str, ...] = ()) -> Answer:
        command = [sys.executable, *python, "-m", "clipkd", *map(str, arguments)]
        environment = os.environ | {"COLUMNS": "100", "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"}
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)

    return run


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Run the same in this process: importing takes seconds."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "400")

    def run(*arguments: str | Path) -> Answer:
        try:
            code = main([*map(str, arguments)])
        except SystemExit as stopped:
            code = int(stopped.code or 0)
        return subprocess.CompletedProcess(arguments, code, *capsys.readouterr())

    return run


def refused(answer: Answer, *parts: str, code: int = 2) -> None:
    """Check that the answer is a message with these parts, and nothing else."""
    assert answer.returncode == code, answer.stderr
    assert "Traceback" not in answer.stderr
    assert [part for part in parts if part not in answer.stderr] == [], answer.stderr
    assert answer.stdout == ""


def test_without_arguments(clipkd) -> None:
    refused(clipkd(), "usage: clipkd", "VERB")


def test_help_and_an_unknown_verb_name_every_verb(here) -> None:
    refused(here("trian"), "'trian'", *VERBS)
    answer = here("--help")
    assert answer.returncode == 0
    assert [verb for verb in VERBS if verb not in answer.stdout] == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "--dataset-name", "digits", "--labels", "0"], "argument --labels: "),
        (["verify", "--epoch-s", "3"], "unrecognized arguments: --epoch-s"),
        (["export", "run"], "the following arguments are required: OUT, --format"),
    ],
)
def test_a_wrong_option_is_one_line_and_where_the_help_is(words: list[str], message: str, here) -> None:
    answer = here(*words)
    refused(answer, message)
    first, second = answer.stderr.splitlines()
    assert first.startswith(f"clipkd {words[0]}: error: {message}")
    assert second == f"run `clipkd {words[0]} --help` for every option"


def test_then_begins_another_command_and_the_first_that_fails_is_the_last(here) -> None:
    """`then` that no verb follows is a value like any other."""
    names = here("list").stdout
    assert here("list", "then", "list").stdout == 2 * names
    answer = here("list", "then", "verify", "absent", "then", "list")
    assert answer.returncode == 2
    assert answer.stdout == names
    assert answer.stderr.startswith("clipkd verify: error: ")
    refused(here("list", "then", "train", "--epochs", "no"), "argument --epochs", code=2)
    refused(here("list", "then", "lis"), "invalid choice: 'then'")


def test_a_misspelt_verb_or_flag_gets_the_nearest_one(here) -> None:
    refused(
        here("trian", "--epochs", "3"), "clipkd: error: unknown verb 'trian'; did you mean 'train'? (valid: download, "
    )
    refused(here("verify", "absent", "--hlep"), "unrecognized arguments: --hlep; did you mean '--help'?")
    refused(here("train", "--epohcs", "2"), "unrecognized arguments: --epohcs; did you mean '--epochs'?")
    refused(here("verify", "absent", "--gpu=1"), "unrecognized arguments: --gpu=1\nrun")
    refused(here("list", "recipes", "extra"), "unrecognized arguments: extra\nrun `clipkd list --help`")


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_a_verb_shows_defaults_as_a_user_types_them(verb: str, here) -> None:
    answer = here(verb, "--help")
    assert answer.returncode == 0
    assert answer.stdout.startswith(f"usage: clipkd {verb}")
    assert not re.search(r"Path\(|\(default: (None|[\[(]| )", answer.stdout)


def test_help_shows_defaults_and_examples(here) -> None:
    shown = here("train", "--help").stdout
    for option, default in (("epochs", "200"), ("learning-rate", "0.0001"), ("teacher-model", "none"), ("seed", "0")):
        assert re.search(rf"--{option} [^()]*\(default: {default}\)", shown), option
    assert "examples:\n  clipkd train --dataset-name digits" in shown


def test_a_verb_that_computes_nothing_starts_without_torch(tmp_path: Path) -> None:
    """Importing it takes seconds, of each job of a workflow."""
    commands = ["list", f"check {ROOT}/config/demo.yaml --base {ROOT}/config/config.yaml", "audit digits absent"]
    commands += ["download digits", *(f"{verb} --help" for verb in VERBS)]
    code = (
        "import sys\n"
        "from clipkd.cli import main\n"
        "for command in sys.argv[1:]:\n"
        "    try:\n"
        "        main(command.split())\n"
        "    except SystemExit:\n"
        "        pass\n"
        "    if 'torch' in sys.modules:\n"
        "        sys.exit(f'{command} imports torch')\n"
    )
    words = [sys.executable, "-c", code, *commands]
    answer = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert answer.returncode == 0, answer.stderr
    assert "unknown teacher 'absent'" in answer.stderr
    assert (tmp_path / "data/datasets/digits/manifest.json").is_file()


def test_bash_completes_verbs_flags_choices_and_files(clipkd, tmp_path: Path) -> None:
    """The real bash, its completion function called as the shell calls it."""
    answer = clipkd("completion", "bash")
    assert answer.returncode == 0, answer.stderr
    (tmp_path / "completion.sh").write_text(answer.stdout)
    (tmp_path / "my-run").mkdir()

    def complete(*words: str) -> set[str]:
        code = (
            'source completion.sh; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))\n'
            'COMP_LINE="$*"; COMP_POINT=${#COMP_LINE}\n'
            '$(complete -p clipkd | grep -o -- \'-F [^ ]*\' | cut -c 4-) clipkd "${COMP_WORDS[COMP_CWORD]}" ""\n'
            'printf "%s\\n" "${COMPREPLY[@]}"'
        )
        command = ["bash", "-c", code, "bash", *words]
        found = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=20, check=True)
        return {word.strip() for word in found.stdout.splitlines() if word.strip()}

    assert complete("clipkd", "pre") == {"predict"}
    assert complete("clipkd", "predict", "--fo") == {"--format"}
    assert complete("clipkd", "predict", "--format", "") == {"csv", "json"}
    assert complete("clipkd", "predict", "my-") == {"my-run"}


def test_list_names_everything(here) -> None:
    answer = here("list")
    assert answer.returncode == 0
    found: dict[str, list[str]] = {}
    for line in answer.stdout.splitlines():
        if not line.startswith(" "):
            kind = line.split(":")[0]
        elif not line.startswith("   "):
            found.setdefault(kind, []).append(line.split()[0])
            assert len(line.split()) > 2, "a line about each thing"
    assert found == {
        "datasets": [*datasets.names(), "FOLDER", "hub:OWNER/NAME@COMMIT", "torchvision:NAME"],
        "teachers": [
            *teachers.names(),
            "OWNER/MODEL@COMMIT",
            "timm:MODEL?pretrained=FILE",
            "trained:MODEL@PIXELS",
            "run:RECIPE/.../seedN",
            "embeddings:FOLDER-or-FILE",
            "WHERE:OUTPUT",
            "A+B",
        ],
        "students": [*students.names(), "timm:MODEL@PIXELS"],
        "train-types": methods.names(),
        "recipes": [*recipes.names(), "RECIPE?SWITCH=VALUE"],
        "prototype-forms": ["gaussian", "kmeans-K", "mean", "unit-mean"],
    }
    assert "embeddings: none below data" in answer.stdout
    recipe_lines = here("list", "recipes").stdout.splitlines()
    assert recipe_lines[0] == "recipes:"
    assert " ".join(recipe_lines[1].split()).startswith("corrected What the released code means to do")
    refused(here("list", "recipe"), "'recipe'", "recipes")


def test_list_shows_what_is_packed(here, tmp_path: Path) -> None:
    facts = {"classes": ["owl", "tit"], "train": 1200, "test": 8}
    packed = {"digits": facts | {"classes": [*"0123456789"]}, "birds": facts}
    for name, found in packed.items():
        (tmp_path / "data/datasets" / name).mkdir(parents=True)
        write_manifest(tmp_path / "data/datasets" / name, "dataset", {}, found, {})
    (tmp_path / "data/datasets/worn").mkdir()
    (tmp_path / "data/datasets/worn/manifest.json").write_text("{}")
    listed = " ".join(here("list", "datasets").stdout.split())
    assert "(packed: 10 classes, 1,200 training and 8 test images)" in listed
    assert "birds Your own, packed: 2 classes, 1,200 training and 8 test images" in listed
    assert "worn Your own, DAMAGED: data/datasets/worn/manifest.json has no format" in listed


def test_list_shows_what_is_stored(here, digits_folder, vit_folder) -> None:
    flags = ["--dataset-name", "digits", "--teacher-model", vit_folder, "--views", "sample", "--per-class", 3]
    made = here("extract", *flags, "--data", digits_folder)
    folder = Path(made.stdout.strip())
    size = sum(path.stat().st_size for path in folder.iterdir() if path.name != "manifest.json")
    listed = here("list", "embeddings", "--data", digits_folder).stdout
    name = "/".join(folder.parts[-3:])
    _, _, after = listed.partition(name)
    line = " ".join(after.split())
    assert line.startswith("30 views of images for prototypes, 16 dimensions, last layer's class token")
    assert f"{size / 1e6:.2f} MB" in line


REFUSED = {
    "unknown dataset": (
        ("train", "--dataset-name", "digit", "--train-type", "supervised"),
        "'digit'; did you mean 'digits'",
        "known: ",
    ),
    "unknown train type": ((*TRAIN, "--train-type", "embed_KD"), "'embed_KD'; did you mean 'embed-KD'", "known: "),
    "unknown teacher": (
        (*TRAIN, "--train-type", "embed-KD", "--teacher-model", "vit-b61-in21k"),
        "'vit-b61-in21k'; did you mean 'vit-b16-in21k'",
        "known: ",
    ),
    "unknown student": ((*SUPERVISED, "--student", "base-23"), "'base-23'; did you mean 'base-32'", "known: "),
    "unknown recipe": ((*SUPERVISED, "--recipe", "corect"), "'corect'; did you mean 'corrected'", "known: "),
    "unknown download": (("download", "cifar-10"), "'cifar-10'; did you mean 'cifar10'", "known: "),
    "unknown fetch": (("fetch", "vit-b16"), "'vit-b16'; did you mean", "known: "),
    "endless name": (("fetch", "x" * 5000), "unknown teacher 'xxx"),
    "unknown file's student": (
        ("evaluate", "x.pt", "--dataset-name", "digits", "--student", "tiny"),
        "'tiny'; did you mean 'tiny-32'",
        "known: ",
    ),
    "no train type": (TRAIN, "--train-type"),
    "no teacher": ((*TRAIN, "--train-type", "embed-KD"), "'embed-KD' needs --teacher-model", "digits-vit-s"),
    "no teacher to extract": (
        ("extract", "--dataset-name", "digits", "--views", "full"),
        "clipkd extract needs --teacher-model",
    ),
    "hub id without commit": (
        (*TRAIN, "--train-type", "embed-KD", "--teacher-model", "owner/model"),
        "owner/model@<40 hex digits>",
    ),
    "teacher without commit": (("fetch", "google/vit-base-patch32-224-in21k"), "run `clipkd pin vit-b32-in21k`"),
    "live prototypes": (
        (*TRAIN, "--train-type", "embed-KD", "--teacher-model", "digits-vit-s", "--teacher-source", "live"),
        "'embed-KD' can't use a live teacher",
    ),
    "unknown flag": ((*SUPERVISED, "--epoch-count", "3"), "--epoch-count"),
    "zero epochs": ((*SUPERVISED, "--epochs", "0"), "--epochs", "0"),
    "fraction of an epoch": ((*SUPERVISED, "--epochs", "1.5"), "--epochs", "1.5"),
    "negative batch": ((*SUPERVISED, "--batch-size", "-1"), "--batch-size", "-1"),
    "nan rate": ((*SUPERVISED, "--learning-rate", "nan"), "--learning-rate", "nan"),
    "no rate": ((*SUPERVISED, "--learning-rate", "0"), "--learning-rate: 0 must be greater than 0\n"),
    "infinite decay": ((*SUPERVISED, "--weight-decay", "inf"), "--weight-decay", "inf"),
    "negative seed": ((*SUPERVISED, "--seed", "-1"), "--seed: -1 must be at least 0"),
    "endless seed": ((*SUPERVISED, "--seed", "99999999999999999999"), "--seed"),
    "dtype": ((*SUPERVISED, "--embed-dtype", "float61"), "float61", "float16", "float32"),
    "zero threads": ((*SUPERVISED, "--threads", "0"), "--threads"),
    "no resolved config": (("figures",), "results/config.json does not exist", "snakemake"),
    "checkpoint ending": ((*SUPERVISED, "--ckpt-save-name", "x.bin"), "'x.bin'", ".pt", ".safetensors"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str, here, tmp_path: Path) -> None:
    arguments, *parts = REFUSED[name]
    refused(here(*arguments), *parts)
    assert not list(tmp_path.iterdir())


def test_an_optimised_interpreter_refuses_the_same(clipkd) -> None:
    arguments, *parts = REFUSED["no teacher"]
    refused(clipkd(*arguments, python=("-O",)), *parts)


def test_a_dataset_that_is_never_downloaded(here) -> None:
    refused(here("download", "imagenet"), "never downloaded", "--dataset-source FOLDER")
    refused(here("download", "imagenet", "--dataset-source", "/absent"), "/absent")


def test_a_dataset_that_takes_no_source(here) -> None:
    message = "dataset 'digits' is part of scikit-learn and takes no source: leave out 'mine', or give your own data"
    refused(here("download", "digits", "--dataset-source", "mine"), message)
    refused(here(*SUPERVISED, "--dataset-source", "mine"), message)
    # A packed dataset stands for its source where a verb looks for one.
    assert here("download", "digits").returncode == 0
    assert here("download", "digits", "--dataset-source", "data/datasets/digits").returncode == 0


@pytest.mark.parametrize("name", ["file", "file/below"])
def test_a_log_folder_that_is_a_file(name: str, here, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    refused(here(*SUPERVISED, "--log-folder", name), f"log folder {name}")
    assert (tmp_path / "file").read_text() == "mine"


def test_a_data_folder_that_is_a_file(here, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    refused(here("download", "digits", "--data", "file"), "file", code=4)
    assert (tmp_path / "file").read_text() == "mine"


def test_a_form_of_more_vectors_than_images(here) -> None:
    few = ("--teacher-model", "digits-vit-s", "--prototype-form", "kmeans-9", "--per-class", "8")
    refused(here(*TRAIN, "--train-type", "embed-KD", *few), "'kmeans-9' makes 9 vectors per class of 8 images")


@pytest.mark.parametrize(("text", "code"), [("{}", 2), ("[]", 2), ("no json", 3), ('{"grid": NaN}', 3)])
def test_a_resolved_config_that_is_none(text: str, code: int, here, tmp_path: Path) -> None:
    (tmp_path / "c.json").write_text(text)
    refused(here("tables", "--config", "c.json"), "c.json", code=code)


def test_embeddings_that_are_absent(here) -> None:
    named = ("--dataset-name", "digits", "--teacher-model", "digits-vit-s")
    command = f"extract them first: clipkd extract {' '.join(named)}"
    refused(here("probe", *named), "no embeddings at data/embeddings/digits/digits-vit-s/", f"{command} --views full")
    more = ("--per-class", "5", "--template", "a {}")
    refused(here("prototypes", *named, *more), f"{command} --per-class 5 --template 'a {{}}' --views sample")


def test_a_batch_larger_than_the_dataset(here) -> None:
    answer = here(*TRAIN, "--train-type", "supervised", "--batch-size", "100000", "--device", "cpu")
    refused(answer, "batch size 100000 is larger than the")


def test_a_reader_that_went_away() -> None:
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "clipkd", "train", "--help"]
    answer = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, timeout=60)
    os.close(write)
    assert answer.stderr == ""


def test_little_is_imported_before_ctrl_c_is_one_line():
    """What comes first would be a traceback, and typing alone is a third of it."""
    code = "import sys; first = set(sys.modules); import clipkd.__main__; print(*sorted(set(sys.modules) - first))"
    asked = [sys.executable, "-S", "-c", f"import enum, os; {code}"]  # any program has these, by site or by signal
    answer = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, check=True)
    assert answer.stdout.split() == ["clipkd", "clipkd.__main__", "clipkd.core", "clipkd.core.version", "signal"]


def test_a_run_that_is_not_there_is_named_by_evaluate(here):
    refused(
        here("evaluate", "results/runs/corrected/digits/tiny-32/none/supervised/seed0"),
        "seed0 does not exist: name a run",
    )


@pytest.mark.parametrize(("total", "said"), [(1, "done, 1 batch,"), (2, "done, 2 batches,")])
def test_a_line_of_progress_counts_in_words(total, said, capsys):
    assert list(progress(range(total), total, "work")) == list(range(total))
    assert f"work: {said}" in capsys.readouterr().err


def test_no_error_of_a_command_passes_for_the_end_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """A StopIteration ends a loop over an iterator in silence."""

    def ends(options: object) -> int:
        raise StopIteration

    monkeypatch.setattr("clipkd.cli.run", ends)
    with pytest.raises(StopIteration):
        main(["list", "teachers"])


def test_sigterm_ends_a_verb_with_a_message(here, monkeypatch: pytest.MonkeyPatch) -> None:
    """A scheduler's: by its log, the job was not killed, and its next attempt asks for no more memory."""
    monkeypatch.setattr(verify, "run", lambda options: os.kill(os.getpid(), signal.SIGTERM) or time.sleep(10))
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)  # a training in this process has left its own
    try:
        refused(here("verify"), "clipkd verify: error: stopped by SIGTERM", code=143)
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGTERM, before)


def test_out_of_memory_is_a_message_for_every_verb(here, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(options: object) -> None:
        np.zeros((1 << 45, 1 << 10))

    monkeypatch.setattr(verify, "run", full)
    refused(here("verify"), "clipkd verify: error: out of memory (Unable to allocate", code=4)


def test_a_packed_dataset_is_known_by_its_name_without_its_folder(here, tmp_path: Path) -> None:
    photos, data, runs = save_photos(tmp_path / "photos"), tmp_path / "data", tmp_path / "run"
    assert here("download", "--data", str(data), "--dataset-source", f"{photos}?levels=full", "photos").returncode == 0
    shutil.rmtree(photos)
    command = ("train", "--data", str(data), "--log-folder", str(runs), "--train-type", "supervised", "--epochs", "1")
    command = (*command, "--student", "tiny-32", "--batch-size", "16", "--dataset-name")
    answer = here(*command, "photos")
    assert answer.returncode == 0, answer.stderr
    assert "nothing to do" in here(*command, "photos").stderr
    (data / "datasets/photos").rename(data / "datasets/others")
    refused(here(*command, "others"), "give --dataset-source", "dataset: found 'photos', wanted 'others'")
    refused(here(*command, "fotos"), "unknown dataset 'fotos'")
