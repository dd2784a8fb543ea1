"""The catalog: which folder wins, and that one broken file does not hide the others."""

from pathlib import Path

import pytest

from jupyter_vsandbox.domain.errors import InvalidRequest, NotFound
from jupyter_vsandbox.runtimes.catalog import Catalog
from jupyter_vsandbox.settings import Settings


def write(folder: Path, name: str, summary: str = "", file: str = "") -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / f"{file or name}.toml"
    path.write_text(f'name = "{name}"\nsummary = "{summary}"\n[base]\nsuite = "trixie"\n[python]\n')
    return path


def test_a_later_folder_wins_by_name(tmp_path: Path) -> None:
    write(tmp_path / "a", "one", "first")
    write(tmp_path / "a", "two", "first")
    winner = write(tmp_path / "b", "one", "second", file="any-file-name")
    catalog = Catalog([tmp_path / "a", tmp_path / "missing", tmp_path / "b"])
    assert catalog.names() == ["one", "two"]
    assert catalog.get("one").summary == "second"
    assert catalog.get("two").summary == "first"
    assert catalog.path("one") == winner


def test_an_unknown_name_lists_what_exists(tmp_path: Path) -> None:
    write(tmp_path, "one")
    write(tmp_path, "two")
    with pytest.raises(NotFound, match=r"no runtime .three.*one, two"):
        Catalog([tmp_path]).get("three")
    with pytest.raises(NotFound, match="none at all"):
        Catalog([]).path("three")


def test_a_broken_file_hides_nothing_else_and_is_reported(tmp_path: Path) -> None:
    write(tmp_path, "good")
    (tmp_path / "bad.toml").write_text("name = ")
    catalog = Catalog([tmp_path])
    assert catalog.names() == ["good"]
    assert [broken.path.name for broken in catalog.broken] == ["bad.toml"]
    assert "not valid TOML" in str(catalog.broken[0].error)


def test_a_broken_file_is_not_silently_replaced_by_an_older_one(tmp_path: Path) -> None:
    write(tmp_path / "a", "one")
    write(tmp_path / "b", "other")
    (tmp_path / "b" / "one.toml").write_text("name = ")
    catalog = Catalog([tmp_path / "a", tmp_path / "b"])
    assert catalog.names() == ["other"]
    with pytest.raises(InvalidRequest, match=r"b/one\.toml"):
        catalog.get("one")
    write(tmp_path / "c", "one")
    assert Catalog([tmp_path / "a", tmp_path / "b", tmp_path / "c"]).get("one").name == "one"


def test_one_name_twice_in_one_folder_is_an_error(tmp_path: Path) -> None:
    write(tmp_path, "one", "kept", file="a")
    write(tmp_path, "one", "refused", file="b")
    catalog = Catalog([tmp_path])
    assert catalog.get("one").summary == "kept"
    assert "another name" in str(catalog.broken[0].error)


def test_the_standard_catalog_is_built_in_then_site_then_user(tmp_path: Path) -> None:
    write(tmp_path / "site", "python-3.11", "site")
    write(tmp_path / "site", "extra", "site")
    settings = Settings(home=tmp_path, recipe_folders=(tmp_path / "site",))
    assert Catalog.standard(settings).get("python-3.11").summary == "site"
    write(settings.user_recipes, "python-3.11", "user")
    standard = Catalog.standard(settings)
    assert standard.get("python-3.11").summary == "user"
    assert standard.get("extra").summary == "site"
    assert Catalog.standard(Settings(home=tmp_path / "empty")).names() == [
        "python-3.11",
        "python-3.13",
        "python-3.9",
    ]
