"""Class names in plain words: what is taken, what is refused, and in which words."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from clipkd.core.errors import InputError
from clipkd.spec import class_names
from clipkd.spec.config import load
from clipkd.spec.layout import Layout
from clipkd.spec.settings import Config
from tests.grids import block

BASE = Path(__file__).parents[2] / "config/config.yaml"
CLASSES = ["n01440764", "n01443537", "n02123045"]
WORDS = {"n01440764": "tench", "n01443537": "goldfish", "n02123045": "tabby cat"}
FISH = block("one", datasets="[fish]", train_types="[embed-KD]")
CONFIG = f"sources: {{fish: images}}\ngrid:\n{FISH}class_names:\n  fish: NAMES\n"

FILES = {
    "words.yaml": "\n".join(f"{key}: {name}" for key, name in WORDS.items()),
    "words.json": json.dumps(WORDS),
    "list.yaml": "- tench\n- goldfish\n- tabby cat\n",
    "list.json": json.dumps(list(WORDS.values())),
    "reordered.yaml": "\n".join(f"{key}: {WORDS[key]}" for key in reversed(CLASSES)),
}


@pytest.mark.parametrize("name", FILES)
def test_every_form_gives_the_same_names(name, tmp_path):
    (tmp_path / name).write_text(FILES[name])
    assert class_names.from_option(str(tmp_path / name)).of(CLASSES) == ["tench", "goldfish", "tabby cat"]
    assert class_names.from_option(json.dumps(WORDS)).of(CLASSES) == ["tench", "goldfish", "tabby cat"]


def test_numbers_and_no_are_texts_in_yaml(tmp_path):
    (tmp_path / "names.yaml").write_text("0: zero\n010: ten\nno: Norway\n")
    assert class_names.from_file(tmp_path / "names.yaml").of(["no", "0", "010"]) == ["Norway", "zero", "ten"]


BAD = {
    "missing": ("n01440764: tench\nn01443537: goldfish\n", ["names.yaml: no name for 'n02123045'"]),
    "unknown": (FILES["words.yaml"].replace("n01443537", "n01443573"), ["unknown class 'n01443573'", "'n01443537'?"]),
    "class twice": ("n01440764: tench\nn01440764: carp\n", ["names.yaml:2", "duplicate class 'n01440764'"]),
    "name twice": ("a: crane\nb: crane\n", ["names.yaml:2: b", "'crane' is the name of 'a' too"]),
    "name twice in a prompt": ("a: ice cream\nb: ice_cream\n", ["names.yaml:2: b", "is the name of 'a' too"]),
    "empty": ("a: ''\nb: cat\n", ["names.yaml:1: a: invalid name ''"]),
    "nested": ("a: [n1, tench]\n", ["names.yaml:1", "nothing is nested"]),
    "too few": ("- tench\n- carp\n", ["a list of 2 names, but there are 3 classes: 'n01440764'"]),
    "a word": ("tench\n", ["names.yaml: class names are a map"]),
    "nothing": ("", ["names.yaml: class names are a map"]),
    "no YAML": ("a: [\n", ["names.yaml:", "not YAML"]),
    "two lines": ('a: "one\\ntwo"\n', ["names.yaml:1: a", "one line of text"]),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_names_are_refused(case, tmp_path):
    text, words = BAD[case]
    (tmp_path / "names.yaml").write_text(text)
    with pytest.raises(InputError) as caught:
        class_names.from_file(tmp_path / "names.yaml").of(CLASSES)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"a": "x", "a": "y"}', "duplicate class 'a'"),
        ('{"0": ["n01440764", "tench"]}', "0: invalid name ['n01440764', 'tench']"),
        ("{", "not JSON"),
        ("nowhere.yaml", "class names in nowhere.yaml: "),
    ],
)
def test_bad_json_and_paths_are_refused(text, words):
    with pytest.raises(InputError) as caught:
        class_names.from_option(text)
    assert words in str(caught.value)


def config(folder: Path, names: str) -> Config:
    (folder / "mine").mkdir(exist_ok=True)
    path = folder / "mine/mine.yaml"
    path.write_text(CONFIG.replace("NAMES", names).replace("images", str(folder / "images")))
    return load([BASE, path])


@pytest.fixture
def folders(tmp_path):
    """A folder of images' classes, without images."""
    for name in CLASSES:
        (tmp_path / "images/train" / name).mkdir(parents=True)
    return tmp_path


def test_a_path_begins_beside_the_config(folders, monkeypatch):
    (folders / "mine").mkdir()
    (folders / "mine/words.yaml").write_text(FILES["words.yaml"])
    monkeypatch.chdir(folders.parent)
    named = dict(Layout.of(config(folders, "words.yaml")).class_names)["fish"]
    assert named.of(CLASSES) == list(WORDS.values())
    inline = dict(Layout.of(config(folders, json.dumps(WORDS))).class_names)["fish"]
    assert inline == named
    assert inline.identity() == named.identity()


@pytest.mark.parametrize(
    ("dataset", "words"), [("digits", "no name for '2', '3'"), ("cifar10", "2 names, but CIFAR10 has 10 classes")]
)
def test_names_are_checked_before_any_work(dataset, words, tmp_path):
    """As far as the classes are known then."""
    text = CONFIG.replace("sources: {fish: images}\n", "").replace("fish", dataset)
    (tmp_path / "mine.yaml").write_text(text.replace("NAMES", '{"0": zero, "1": one}'))
    with pytest.raises(InputError, match=rf"mine\.yaml:10: class_names\.{dataset}: {words}"):
        load([BASE, tmp_path / "mine.yaml"])


def test_names_are_in_the_fingerprint(folders):
    other = dict(Layout.of(config(folders, json.dumps(WORDS | {"n01440764": "carp"}))).class_names)["fish"]
    assert other.identity() != class_names.read(WORDS, "here").identity()


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ("{n01440764: tench, n01443537: goldfish}", ["class_names.fish: no name for 'n02123045'"]),
        ("{n01440764: tench, n01443537: goldfish, n0212304: cat}", ["class_names.fish", "did you mean 'n02123045'"]),
        ("[tench, carp]", ["class_names.fish: a list of 2 names, but there are 3 classes"]),
        (
            "{n01440764: 7}",
            ["class_names.fish: {'n01440764': 7} is not a file, a map from classes"],
        ),
        ("absent.yaml", ["class_names.fish: class names in", "absent.yaml: No such file"]),
        ("x\n  fsh: y", ["class_names.fsh: no block of the grid has a dataset 'fsh'; did you mean 'fish'?"]),
    ],
)
def test_the_config_refuses_wrong_names_before_any_work(folders, names, words):
    with pytest.raises(InputError) as caught:
        config(folders, names)
    for word in [*words, "mine.yaml:1"]:
        assert word in str(caught.value)


@pytest.mark.parametrize("classes", [["01", "02", "10"], ["0", "1", "2"], ["0", "2", "10"], ["b", "a"], CLASSES[:3]])
def test_a_list_goes_by_position_where_both_orders_are_one(classes):
    names = [f"name {number}" for number in range(len(classes))]
    assert class_names.read(names, "class_names.x").of(classes) == names
