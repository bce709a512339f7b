"""Rows C: configs and command lines, through the real loader, the real parser and the real Snakemake."""

from __future__ import annotations

import contextlib
import json
import math
import os
import random
import resource
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from clipkd import cli
from clipkd.core.errors import ClipkdError, InputError
from clipkd.plugins import datasets, students
from clipkd.spec import cells, class_names, grid
from clipkd.spec.config import load
from clipkd.spec.settings import Block, Config, EmbeddingSettings, PrototypeSettings, Training
from tests.faults.checks import amount, fault, nothing, replaced
from tests.synthetic import demo, seal, write_study
from tests.workflow.test_workflow import MINI, copy_workflow, snakemake

ROOT = Path(__file__).parents[2]
BASE, DEMO = ROOT / "config/config.yaml", ROOT / "config/demo.yaml"


def read(folder: Path, text: str | bytes, overrides: dict[str, Any] | None = None) -> Config:
    """Return config.yaml with `text` merged over it."""
    path = folder / "mine.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return load([BASE, path], overrides)


def refused(folder: Path, text: str | bytes, *parts: str) -> None:
    """Check that a config is refused with these parts in the message."""
    try:
        read(folder, text)
    except InputError as error:
        message = str(error)
    except RecursionError:
        pytest.fail(f"a traceback for {text[:80]!r}")
    else:
        pytest.fail(f"taken for a config: {text[:200]!r}")
    assert [part for part in parts if part not in message] == [], message


def numeric_keys(
    model: type[BaseModel] = Config, prefix: tuple[str, ...] = ()
) -> dict[tuple[str, ...], dict[str, Any]]:
    """Return every key that takes a number, and its JSON schema."""
    keys: dict[tuple[str, ...], dict[str, Any]] = {}
    whole = model.model_json_schema()
    for name, field in model.model_fields.items():
        child = whole["properties"][name]
        kinds = [child, *child.get("anyOf", [])]
        keys |= {(*prefix, name): kind for kind in kinds if kind.get("type") in {"integer", "number"}}
        if child.get("items", {}).get("type") == "integer":
            keys[(*prefix, name, "[]")] = child["items"]
        if name == "grid":
            keys |= numeric_keys(Block, (name, "[]"))
        elif isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            keys |= numeric_keys(field.annotation, (*prefix, name))
    return keys


def text_with(key: tuple[str, ...], value: str) -> str:
    """Return a config in which one numeric key has a value."""
    if key[0] != "grid":
        return f"{key[0]}:\n  {key[1]}: {value}\n"
    lines = MINI.partition("training:")[0]
    return (
        lines.replace("seeds: [0, 1]", f"seeds: [{value}]") if key[2] == "seeds" else f"{lines}    {key[2]}: {value}\n"
    )


def unchecked(values: dict[str, Any], complaint: Any) -> Config:
    """Return a config whose values are taken as they are: the mutant."""
    parts = {"training": Training, "embeddings": EmbeddingSettings, "prototypes": PrototypeSettings}
    taken = {name: parts[name].model_construct(**value) if name in parts else value for name, value in values.items()}
    blocks = [block if isinstance(block, Block) else Block.model_construct(**block) for block in values["grid"]]
    return Config.model_construct(**taken | {"grid": blocks})


@fault("C01", **{"the-fields": replaced("clipkd.spec.config.check", unchecked)})
def test_an_unknown_key_is_refused_with_the_nearest(tmp_path: Path) -> None:
    refused(tmp_path, "training:\n  learing_rate: 1e-3\n", "mine.yaml:2", "did you mean 'learning_rate'")
    draw = random.Random(0)
    known = list(Training.model_fields)
    for _ in range(amount(40, 400)):
        name = list(draw.choice(known))
        name[draw.randrange(len(name))] = draw.choice("abcxyz_")
        word = "".join(name)
        if word not in known:
            refused(tmp_path, f"training:\n  {word}: 1\n", "mine.yaml:2", f"unknown key '{word}'", "did you mean")


@fault("C02", **{"our-own-scalars": replaced("clipkd.spec.yaml_source.meant", lambda text: yaml.safe_load(text))})
def test_a_number_is_what_a_person_means(tmp_path: Path) -> None:
    for text, number in (("1e-4", 1e-4), ("5E-3", 5e-3), ("1", 1), (".5", 0.5)):
        assert read(tmp_path, f"training:\n  learning_rate: {text}\n").training.learning_rate == number
    for text in ('"200"', "'200'", "010", "1_000", "0x10", "0o17", "1:30", "2e2", "200.0"):
        refused(tmp_path, f"training:\n  epochs: {text}\n", "mine.yaml:2", "training.epochs")
    assert read(tmp_path, "sources: {cifar10: NO}\n").sources["cifar10"] == "NO"


WRONG_NUMBERS = (".nan", "-.inf", ".inf", "NaN", "inf", "1e999", "-1e999", "-1", "-0.5", "true", "false", "null", "~")
WRONG_NUMBERS += ("9223372036854775808", "1" * 400, "1e400", "[]", "{}", "one", '"1"', "0x7f", "1e", "--1", "1.5.2")


@pytest.mark.slow
@fault("C03", **{"finite-numbers": replaced("clipkd.spec.yaml_source.meant", yaml.safe_load)})
def test_no_numeric_key_takes_what_is_no_number_of_its_range(tmp_path: Path, record_property: Any) -> None:
    keys, tried = numeric_keys(), 0
    assert len(keys) >= 10
    for place, (key, found) in enumerate(keys.items()):
        few = WRONG_NUMBERS[place % amount(3, 1) :: amount(3, 1)]
        for value in (*few, "0.5" if found.get("type") == "integer" else "1e9"):
            refused(tmp_path, text_with(key, value), "mine.yaml:", key[-1].replace("[]", "seeds"))
            tried += 1
        if found.get("minimum", 0) >= 1 or "exclusiveMinimum" in found:
            refused(tmp_path, text_with(key, "0"), key[-1])
    record_property("wrong numbers refused", tried)


HOSTILE: dict[str, str | bytes] = {
    "duplicate key": "training:\n  epochs: 3\n  epochs: 4\n",
    "duplicate key, flow": "training: {epochs: 3, epochs: 4}\n",
    "tab": "training:\n\tepochs: 3\n",
    "empty": "",
    "only a comment": "# nothing\n",
    "a list": "- 1\n",
    "a word": "training\n",
    "bad UTF-8": b"training: {epochs: \xff}\n",
    "UTF-16": "training: {epochs: 3}".encode("utf-16"),
    "NUL": b"training: \x00\n",
    "10 MB": "a" * amount(200_000, 10_000_000),
    "alias bomb": "a: &a [x, x]\n" + "".join(f"{b}: &{b} [*{a}, *{a}]\n" for a, b in pairwise("abcdefghi")),
    "deep": "x: " + "[" * 50_000,
    "deep maps": "x: " + "{a: " * 20_000,
    "tag": "training: !!python/object/apply:os.system ['true']\n",
    "merge key": "a: &a {epochs: 3}\ntraining:\n  <<: *a\n",
    "two documents": "training: {epochs: 3}\n---\ntraining: {epochs: 4}\n",
    "template": "__use_yte__: true\ntraining: {epochs: 3}\n",
    "JSON bomb": '{"x": ' * 30_000,
    "closed brackets": "x: " + "[" * 400 + "]" * 400,
    "dashes": "- " * 45_000,
    "questions": "? " * 45_000,
    "indentation": "".join(" " * depth + "a:\n" for depth in range(400)),
    "long list": "x: [" + "1," * 10_000 + "]",
    "many unknown keys": "".join(f"k{number}: 1\n" for number in range(3_000)),
}  # fmt: skip


@fault(
    "C04",
    "X04",
    **{
        "the-look-ahead": replaced("clipkd.spec.yaml_source.yaml.scan", lambda text, Loader: []),
        "the-size-limit": replaced("clipkd.spec.yaml_source.MAX_BYTES", 1 << 40),
    },
)
def test_a_hostile_file_is_refused_at_once_and_in_little_memory(tmp_path: Path) -> None:
    for name, text in HOSTILE.items():
        start, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        refused(tmp_path, text, "mine.yaml", *(["larger than"] if name == "10 MB" else []))
        assert time.process_time() - start < 1.0, name
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000, name
    assert read(tmp_path, b"\xef\xbb\xbftraining: {epochs: 7}\n").training.epochs == 7


def expanded(folder: Path, block: str) -> list[cells.Cell]:
    return grid.expand(read(folder, block))[0]


@fault(
    "C05", **{"the-sizes-rule": lambda monkeypatch: monkeypatch.setattr(students.StudentSpec, "__post_init__", nothing)}
)
def test_inconsistent_values_are_refused_and_repeats_run_once(tmp_path: Path) -> None:
    grid = MINI.partition("training:")[0]
    for old, new in (("[digits]", "[]"), ("[0, 1]", "[]"), ("[digits]", "[digits, digits]"), ("[0, 1]", "[0, 0]")):
        refused(tmp_path, grid.replace(old, new), "mine.yaml:")
    # The same thing under two names is one run.
    twice = grid.replace("[digits]", "[digits, Digits]").replace("[supervised]", "[Supervised, supervised]")
    assert len(expanded(tmp_path, twice)) == 2
    both = grid + grid.partition("grid:\n")[2].replace("mini", "again")
    assert len(expanded(tmp_path, both)) == 2
    for sizes, parts in (({"patch_size": 5}, ("patch_size", "image_size")), ({"heads": 3}, ("heads", "width"))):
        possible = {"image_size": 32, "patch_size": 4, "width": 64, "layers": 1, "heads": 4}
        with pytest.raises(InputError) as caught:
            students.StudentSpec("odd", **(possible | sizes))
        assert all(part in str(caught.value) for part in parts)
    refused(tmp_path, grid.replace("[digits]", "[Imagenett]"), "did you mean 'imagenet'")


def run(folder: Path, *arguments: str, code: int, parts: tuple[str, ...] = (), **more: Any) -> str:
    """Run the real program in a folder; check its exit code, and that it says so in words."""
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    environment |= more.pop("environment", {})
    command = [sys.executable, "-m", "clipkd", *arguments]
    answer = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120, **more)
    assert answer.returncode == code, answer.stderr
    assert "Traceback" not in answer.stderr
    assert [part for part in parts if part not in answer.stderr] == [], answer.stderr
    return answer.stderr


ODD_NAMES = (
    "with space",
    "größe-日本",
    "quote'\"",
    "dollar$HOME",
    "semi;colon",
    "star*",
    "x" * 255,
    "new\nline",
    "-rf",
)


@fault(
    "C07",
    "X05",
    **{"nothing-special": replaced("pathlib.Path.mkdir", lambda self, *a, **k: os.system(f"mkdir -p {self}"))},
)
def test_a_path_with_an_odd_name_works_or_is_named(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from clipkd.runs.folder import RunFolder

    for name in ODD_NAMES:
        try:
            RunFolder(tmp_path / name / "run").fail({"message": "a test"})
        except OSError as error:
            pytest.fail(f"{name!r}: {error}")
        assert json.loads((tmp_path / name / "run/failed.json").read_text()) == {"message": "a test"}
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(ODD_NAMES)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match="file"):
        RunFolder(tmp_path / "file")
    with pytest.raises(InputError, match=r"name|long"):
        RunFolder(tmp_path / ("y" * 256))
    assert "not found" not in capfd.readouterr().err


@fault("C07", **{"our-errors": lambda monkeypatch: monkeypatch.setattr(cli, "ClipkdError", KeyboardInterrupt)})
def test_missing_and_wrong_paths_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("x")
    for arguments, part, code in (
        (("check", "absent.yaml", "--base", str(BASE)), "absent.yaml", 2),
        (("check", str(tmp_path), "--base", str(BASE)), str(tmp_path), 2),
        (("tables", "--config", f"{tmp_path}/absent.json"), "absent.json", 2),
        (("evaluate", f"{tmp_path}/absent.pt", "--dataset-name", "digits", "--data", f"{tmp_path}/d"), "digits", 3),
        (("verify", f"{tmp_path}/absent"), "absent", 2),
        (("download", "digits", "--data", f"{tmp_path}/file"), "file", 4),
        (("download", "mine", "--dataset-source", f"{tmp_path}/absent", "--data", f"{tmp_path}/d"), "absent", 2),
        (("fetch", "x" * 5000), "xxx", 2),
        (("fetch", "a\0b"), "unknown teacher", 2),
    ):
        try:
            found = cli.main(arguments)
        except ClipkdError as error:
            pytest.fail(f"{arguments}: {error}")
        said = capsys.readouterr().err
        assert (found, part in said, "Traceback" in said) == (code, True, False), (arguments, said)


@fault(
    "C08",
    **{"the-device-check": replaced("clipkd.core.device.choose", lambda name: pytest.fail("went on without a GPU"))},
)
def test_cuda_asked_for_on_a_machine_without(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    arguments = ("train", "--dataset-name", "digits", "--student", "tiny-32", "--train-type", "supervised")
    assert cli.main((*arguments, "--device", "cuda", "--data", str(tmp_path), "--log-folder", str(tmp_path / "r"))) == 2
    assert "cuda" in capsys.readouterr().err.lower()


@pytest.mark.slow
def test_c08_shells(tmp_path: Path) -> None:
    """No locale. (Without arguments, -O, a reader that goes away: tests/cli.)"""
    run(tmp_path, "train", "--dataset-name", "größe", "--train-type", "supervised", code=2, parts=("unknown dataset",),
        environment={"LANG": "C", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"})  # fmt: skip


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_workflow(tmp_path_factory.mktemp("project"))


def yte(canary: Path) -> str:
    """Return a config that creates a file where it is taken for a template."""
    code = f"__import__('pathlib').Path({str(canary)!r}).touch()"
    return f"__use_yte__: true\n__variables__:\n  x: ?{code}\ntraining: {{}}\n"


def test_c04_snakemake_runs_nothing_out_of_the_projects_config(project: Path, tmp_path: Path) -> None:
    """The project's own config is read by our loader only; one that is given with --configfile is checked before."""
    canary, own = tmp_path / "canary", project / "config/config.yaml"
    before = own.read_text()
    try:
        own.write_text(yte(canary))
        answer = snakemake(project, "--dry-run")
    finally:
        own.write_text(before)
    assert answer.returncode != 0
    assert "config.yaml:1" in answer.stdout
    assert not canary.exists()
    given = tmp_path / "given.yaml"
    given.write_text(yte(canary))
    run(project, "check", str(given), code=2, parts=("given.yaml:1", "run code"))
    assert not canary.exists()
    # The control, and what nothing of ours can prevent: Snakemake itself, asked directly, runs it.
    assert snakemake(project, "--dry-run", "--configfile", str(given)).returncode != 0
    assert canary.exists()


def test_c04_make_checks_a_config_before_snakemake_sees_it() -> None:
    lines = (ROOT / "Makefile").read_text().splitlines()
    for target in ("demo", "grid", "report"):
        start = next(number for number, line in enumerate(lines) if line.startswith(f"{target}:"))
        recipe = [line for line in lines[start + 1 : start + 6] if line.startswith("\t")]
        first = next(number for number, line in enumerate(recipe) if "snakemake" in line)
        assert any("clipkd check" in line for line in recipe[:first]), target


@fault("C09", **{"the-fingerprint": replaced("clipkd.runs.folder.fingerprint", lambda identity: "same")})
def test_a_result_of_another_protocol_is_no_result(tmp_path: Path) -> None:
    from clipkd.runs.folder import RunFolder

    path = write_study(demo(), tmp_path).folder(train_type="supervised")
    (path / "student.safetensors").touch()
    seal(path)
    identity = json.loads((path / "metrics.json").read_text())["identity"]
    assert RunFolder(path).finished(identity)
    assert not RunFolder(path).finished(identity | {"protocol": 2})


WORDS = (
    "grid",
    "training",
    "epochs",
    "sources",
    "datasets",
    "teachers",
    "seeds",
    "digits",
    "no",
    "1e-4",
    "010",
    "~",
    "x",
)
PIECES = (
    "\n",
    ":",
    " ",
    "  ",
    "- ",
    "[",
    "]",
    "{",
    "}",
    ",",
    "'",
    '"',
    "#",
    "&a",
    "*a",
    "!!int",
    "|",
    ">",
    "?",
    "%",
    "\t",
)


def a_config(draw: random.Random) -> bytes:
    """Return a config as a person, a program or chance might write it."""
    kind = draw.randrange(4)
    whole = (DEMO if draw.random() < 0.5 else BASE).read_text(encoding="utf-8")
    if kind == 0:  # a real one, damaged
        text = bytearray(whole.encode())
        for _ in range(draw.randint(1, 4)):
            place = draw.randrange(len(text))
            text[place : place + draw.randint(0, 3)] = draw.choice([*PIECES, *WORDS, "\x00", "\xff"]).encode("latin-1")
        return bytes(text)
    if kind == 1:  # pieces of YAML
        return "".join(draw.choice(PIECES + WORDS) for _ in range(draw.randint(0, 60))).encode()
    if kind == 2:  # a real one with one value changed
        lines = whole.splitlines()
        place = draw.choice([number for number, line in enumerate(lines) if ":" in line and "#" not in line[:2]])
        lines[place] = lines[place].partition(":")[0] + ": " + draw.choice([*WORDS, *WRONG_NUMBERS, *PIECES])
        return "\n".join(lines).encode()
    return json.dumps(nested(draw, 4)).encode()  # JSON is YAML too


def nested(draw: random.Random, depth: int) -> Any:
    if depth == 0 or draw.random() < 0.3:
        return draw.choice([None, True, 3, -1, 1e300, math.inf, math.nan, "x", "digits", "é", 2**70, ""])
    if draw.random() < 0.5:
        return [nested(draw, depth - 1) for _ in range(draw.randint(0, 4))]
    return {draw.choice(WORDS): nested(draw, depth - 1) for _ in range(draw.randint(0, 5))}


def is_valid(found: Config) -> bool:
    """Return whether a config is one, by rules that are written down here a second time, without the fields."""
    training = found.training
    rates = (training.learning_rate, training.weight_decay)
    whole = [training.epochs, training.batch_size, found.embeddings.shards, found.embeddings.views]
    names = {"datasets": [*datasets.names(), *found.sources], "students": [*students.names(), "timm:test_resnet@32"]}
    return (
        all(type(number) is int and number >= 1 for number in whole)
        and all(type(rate) in (int, float) and 0 <= rate <= 10 for rate in rates)
        and training.learning_rate > 0
        and len(found.grid) >= 1
        and all(
            name.lower() in known and getattr(block, axis)
            for block in found.grid
            for axis, known in names.items()
            for name in getattr(block, axis)
        )
        and all(type(seed) is int and 0 <= seed < 2**32 for block in found.grid for seed in block.seeds)
    )


@pytest.mark.slow
@fault("C01", "C03", "C04", "C05", **{"the-fields": replaced("clipkd.spec.config.check", unchecked)})
def test_fuzzed_configs(tmp_path: Path, record_property: Any) -> None:
    """Nothing but a config or an InputError comes back, and what comes back is one by rules of its own."""
    draw, taken, invalid = random.Random(6), 0, 0
    seconds: list[float] = []
    seen: list[str] = []
    tries = amount(150, 10_000)
    for _ in range(tries):
        text = a_config(draw)
        start = time.process_time()
        try:
            found = read(tmp_path, text)
        except InputError as error:
            seen.append(str(error))
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            pytest.fail(f"a traceback: {error!r} of {text!r}")
        else:
            taken += 1
            invalid += not is_valid(found)
            with contextlib.suppress(InputError):
                grid.expand(found)
        seconds.append(time.process_time() - start)
    assert invalid == 0
    assert all(str(tmp_path) in message or "merged config" in message for message in seen)
    assert sorted(seconds)[tries // 2] < 1.0
    record_property("configs", tries)
    record_property("of them valid", taken)
    record_property("median seconds", round(sorted(seconds)[tries // 2], 4))


def a_command(draw: random.Random) -> list[str]:
    """Return a command line of real and invented words that can train and download nothing."""
    verbs = [*cli.VERBS, "trian", "", "--help", "-x"]
    flags = (
        "--dataset-name",
        "--teacher-model",
        "--train-type",
        "--student",
        "--recipe",
        "--epochs",
        "--seed",
        "--partial",
    )
    flags += (
        "--data",
        "--config",
        "--batch-size",
        "--learning-rate",
        "--per-class",
        "--embed-dtype",
        "--shard",
        "--views",
    )
    values = (
        "nothing",
        "cifar10",
        "no-such",
        "-1",
        "0",
        "nan",
        "1e999",
        "",
        "é",
        "x" * 300,
        "a\nb",
        "$(touch x)",
        "../..",
    )
    values += (
        "--",
        "digits-vit-s",
        "owner/model",
        "owner/model@main",
        "embed-KD",
        "vanilla",
        "corrected",
        "9" * 30,
        "1/0",
    )
    words = [draw.choice(verbs)]
    for _ in range(draw.randint(0, 6)):
        words += draw.choice([[draw.choice(flags), draw.choice(values)], [draw.choice(values)], [draw.choice(flags)]])
    return words


@fault("C01", "C08", **{"our-errors": lambda monkeypatch: monkeypatch.setattr(cli, "ClipkdError", KeyboardInterrupt)})
def test_fuzzed_command_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str], record_property: Any) -> None:
    """Usage or an error in words, exit code 0, 2, 3 or 4, and nothing written."""
    draw, seconds, tries = random.Random(7), [], amount(80, 1000)
    before, environment = Path.cwd(), dict(os.environ)
    os.chdir(tmp_path)
    os.environ["HF_HUB_OFFLINE"] = "1"
    try:
        for _ in range(tries):
            words = a_command(draw)
            if words[0] == "download" and "cifar10" in words:
                continue  # the one command of these that would use the network
            if words[0] == "init":
                continue  # it is there to write: any name is a project's
            start = time.process_time()
            try:
                code = cli.main(words)
            except SystemExit as leaving:
                code = leaving.code
            except Exception as error:
                pytest.fail(f"a traceback: {error!r} of {words}")
            seconds.append(time.process_time() - start)
            said = capsys.readouterr()
            assert code in {0, 2, 3, 4}, (words, code, said.err)
            assert "Traceback" not in said.err
    finally:
        os.chdir(before)
        os.environ.clear()
        os.environ.update(environment)
    assert sorted(seconds)[len(seconds) // 2] < 1.0
    assert list(tmp_path.rglob("*")) == []
    record_property("command lines", len(seconds))


def order_as_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(class_names, "by_numbers", str)


@fault("C10", **{"order as text": order_as_text})
def test_a_list_for_folders_that_sort_otherwise_than_they_count_is_refused() -> None:
    for classes in (["1", "10", "2"], ["class_1", "class_10", "class_9"], ["0", "1", "10", "11", "2"]):
        named = class_names.read([f"name {number}" for number in range(len(classes))], "class_names.x")
        try:
            found = named.of(classes)
        except InputError as error:
            assert "write a map" in str(error)
            assert "10' before '" in str(error)
        else:
            pytest.fail(f"{classes} are called {found}")
