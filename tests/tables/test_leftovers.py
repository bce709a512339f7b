"""What an earlier grid left among tables and figures goes; what is the user's own stays."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from clipkd.report.figures import figure_stems, write
from clipkd.spec.settings import Config
from clipkd.tables import table_files, write_tables
from clipkd.tables.cleanup import list_of, remove_leftovers
from tests.synthetic import small, write_study


def one_recipe():
    """Return the study's config with recipe corrected only."""
    config = small()
    return Config.model_validate(config | {"grid": [config["grid"][0] | {"recipes": ["corrected"]}]})


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return write_study(small(), tmp_path_factory.mktemp("study"))


def names(folder):
    return {path.name for path in folder.iterdir()}


@pytest.mark.slow
def test_tables_of_an_earlier_grid_go_and_nothing_else(study, tmp_path, capsys):
    folder, small = tmp_path / "results/tables", one_recipe()
    write_tables(study.config, study.results, study.data, folder)
    whole = names(folder)
    assert whole == set(table_files(study.config))
    (folder / "notes.md").write_text("mine")
    (folder / "accuracy-reference-last-top1.md").write_text("edited")
    (tmp_path / "results/paper.csv").write_text("beside it")
    write_tables(small, study.results, study.data, folder)
    wanted = set(table_files(small))
    assert "accuracy-reference-last-top1.csv" in whole - wanted
    assert names(folder) == wanted | {"notes.md", "accuracy-reference-last-top1.md"}
    assert (folder / "accuracy-reference-last-top1.md").read_text() == "edited"
    assert (tmp_path / "results/paper.csv").exists()
    said = capsys.readouterr().err
    assert "accuracy-reference-last-top1.csv: removed, the grid no longer has it" in said
    assert "accuracy-reference-last-top1.md: not of this grid; left as it is" in said
    # The first grid again: everything is back.
    write_tables(study.config, study.results, study.data, folder)
    assert names(folder) == whole | {"notes.md"}


def test_figures_of_an_earlier_grid_go(study, tmp_path, empty_figures):
    folder, small = tmp_path / "figures", one_recipe()
    write.write_figures(study.config, study.results, study.data, folder)
    write.write_figures(small, study.results, study.data, folder)
    assert {name.partition(".")[0] for name in names(folder)} == set(figure_stems(small))
    assert set(figure_stems(study.config)) > set(figure_stems(small))


@pytest.mark.parametrize(
    "listed", ['{"../precious.csv": "x"}', '{"/etc/hostname": "x"}', "[]", "{", '{"a.csv": 3}', ""]
)
def test_a_strange_list_removes_nothing(listed, tmp_path):
    folder = tmp_path / "tables"
    folder.mkdir()
    for path in (tmp_path / "precious.csv", folder / "a.csv", folder / "new.csv"):
        path.write_text("1")
    list_of(folder).write_text(listed)
    remove_leftovers(folder, ["new.csv"])
    assert names(folder) == {"a.csv", "new.csv"}
    assert (tmp_path / "precious.csv").exists()
    assert set(json.loads(list_of(folder).read_text())) == {"new.csv"}


@pytest.mark.parametrize("output", [".", "..", "../tables", "/"])
def test_the_list_stands_beside_the_folder_whatever_it_is_called(output, tmp_path, monkeypatch):
    (tmp_path / "tables/old").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "tables" / ("old" if output == ".." else "."))
    wanted = Path("/.-written.json") if output == "/" else tmp_path / ".tables-written.json"
    assert list_of(Path(output)) == wanted


def test_a_link_is_left(tmp_path):
    folder = tmp_path / "tables"
    folder.mkdir()
    (folder / "old.csv").write_text("1")
    remove_leftovers(folder, ["old.csv"])
    (tmp_path / "elsewhere.csv").write_text("1")
    (folder / "old.csv").unlink()
    (folder / "old.csv").symlink_to(tmp_path / "elsewhere.csv")
    (folder / "new.csv").write_text("2")
    remove_leftovers(folder, ["new.csv"])
    assert (folder / "old.csv").is_symlink()
    assert (tmp_path / "elsewhere.csv").exists()
