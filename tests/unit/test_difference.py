"""The comparison of two inventories."""

import pytest

from jupyter_vsandbox.domain.difference import Change, Pair, Section, compare, new_folders
from jupyter_vsandbox.domain.errors import Permanent
from jupyter_vsandbox.domain.inventory import File, Inventory, Variable

FILE = File(size=5, modified=10, touched=10, mode=0o100644)
NUMBER = Variable("int", 28, "aa")


def inventory(packages=None, files=None, variables=None, notes=None):
    return Inventory(packages, files, variables, notes or {})


def difference(old, new):
    return compare(old, new, Section())


def test_equal_inventories_have_no_difference():
    one = inventory({"a": "1"}, {"/a": FILE}, {"x": NUMBER})
    found = difference(one, one)
    assert [found.packages, found.files, found.variables] == [Section()] * 3


def test_packages_are_added_changed_and_removed():
    found = difference(
        inventory({"pandas": "1.5", "numpy": "1.26", "gone": "1"}),
        inventory({"pandas": "2.2", "numpy": "1.26", "new": "3"}),
    ).packages
    assert found.changes == (Pair("gone", "1", None), Pair("new", None, "3"), Pair("pandas", "1.5", "2.2"))
    assert [each.change for each in found.changes] == [Change.REMOVED, Change.ADDED, Change.CHANGED]


def test_a_package_has_many_spellings():
    old, new = inventory({"Jupyter_Client": "8", "a.b": "1"}), inventory({"jupyter-client": "8", "a-b": "2"})
    assert difference(old, new).packages.changes == (Pair("a-b", "1", "2"),)


@pytest.mark.parametrize(
    "new",
    [
        File(6, 10, 10, 0o100644),
        File(5, 11, 10, 0o100644),
        File(5, 10, 11, 0o100644),
        File(5, 10, 10, 0o100755),
    ],
)
def test_a_file_is_another_if_any_fact_of_it_is(new):
    found = difference(inventory(files={"/a": FILE}), inventory(files={"/a": new})).files
    assert found.changes == (Pair("/a", FILE, new),)


@pytest.mark.parametrize(
    ("new", "what"),
    [
        (Variable("int", 28, "bb"), "changed"),
        (Variable("str", 28, "aa"), "changed"),
        (Variable("int", 32, None), "changed"),
        (Variable("int", 28, None), "unknown"),
        (Variable("int", 28, "aa"), "same"),
    ],
)
@pytest.mark.parametrize("turned", [False, True])
def test_a_variable_without_a_fingerprint_may_have_changed(new, what, turned):
    two = [inventory(variables={"x": NUMBER}), inventory(variables={"x": new})]
    found = difference(*(reversed(two) if turned else two)).variables
    assert [each.name for each in found.changes] == (["x"] if what == "changed" else [])
    assert found.unknown == (("x",) if what == "unknown" else ())


def test_two_variables_without_fingerprints_are_not_called_equal():
    one = inventory(variables={"lock": Variable("lock", 56, None), "a": NUMBER})
    assert difference(one, one).variables == Section(unknown=("lock",))


def test_a_part_that_one_side_does_not_tell_is_not_compared():
    old = inventory({}, {}, None, {"variables": "it holds no memory"})
    found = difference(old, inventory({}, {}, {"x": NUMBER}))
    assert found.variables == Section(note="it holds no memory")
    assert found.files == Section()
    both = difference(old, inventory({}, {}, None, {"variables": "it is stopped"}))
    assert both.variables.note == "it holds no memory; it is stopped"


def test_a_folder_stands_for_all_that_is_new_in_it():
    others = ["/home/a", "/etc/x"]
    new = ["/home/new/b", "/home/new/deep/c", "/home/d", "/etc/one/e"]
    assert new_folders(new, others) == {
        "/home/new/b": "/home/new",
        "/home/new/deep/c": "/home/new",
        "/home/d": "/home/d",
        "/etc/one/e": "/etc/one/e",
    }


def test_an_inventory_comes_back_from_its_document():
    one = inventory(
        {"a": "1"}, {"/\udce4": FILE}, {"x": NUMBER, "y": Variable("f", 1, None)}, {"cells": "none"}
    )
    assert Inventory.from_dict(one.to_dict()) == one
    assert Inventory.from_dict(inventory().to_dict()) == inventory()


@pytest.mark.parametrize(
    "document",
    [
        [],
        {"packages": ["a"]},
        {"files": [["/a", 1]]},
        {"files": [["/a", "big", 1, 1, 1]]},
        {"variables": {"x": ["int"]}},
        {"version": 0},
    ],
)
def test_what_makes_no_sense_is_refused(document):
    with pytest.raises(Permanent, match="cannot be understood"):
        Inventory.from_dict(document)
