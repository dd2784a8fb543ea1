"""Which cells put out something else after a command."""

from jupyter_vsandbox.kernel import changes


def column(*texts):
    streams = [{"output_type": "stream", "name": "stdout", "text": text} for text in texts]
    return {"cells": [{"status": "ok", "outputs": [each] if each["text"] else []} for each in streams]}


async def test_cells_that_changed_come_with_what_nbdime_tells():
    before = column("1\n", "<a at 0x7f0123456>", "\x1b[31mred\x1b[0m", "")
    after = column("2\n", "<a at 0x7f0abcdef>", "\x1b[32mred\x1b[0m", "more")
    first, last = await changes.told([before, after])
    assert (first["number"], last["number"]) == (0, 3)
    assert "-  1\n+  2\n" in first["diff"]
    assert "+  output:" in last["diff"]


async def test_a_cell_that_never_ran_has_changed():
    (change,) = await changes.told([column("1", "2"), column("1")])
    assert change["number"] == 1
    assert "## deleted /cells/1/outputs/0" in change["diff"]


async def test_floods_are_cut_and_still_differ():
    before, after = (column("".join(f"{n}\n" for n in range(100_000)) + end) for end in ("a", "bcd"))
    (change,) = await changes.told([before, after])
    assert "+  … and 588203 characters more" in change["diff"]
    assert len(change["diff"]) < 2 * changes.MAX_CHARACTERS


async def test_nbdime_is_asked_about_so_many_cells_only():
    count = changes.MAX_CELLS + 5
    found = await changes.told([column(*["1"] * count), column(*["2"] * count)])
    assert [bool(each["diff"]) for each in found] == [True] * changes.MAX_CELLS + [False] * 5


async def test_outputs_of_every_kind_are_understood():
    rich = {
        "output_type": "display_data",
        "metadata": {},
        "data": {"application/json": {"a": 1}, "text/plain": "x"},
    }
    widget = {"application/vnd.jupyter.widget-view+json": {"model_id": "1"}, "text/plain": "w"}
    shown = {"output_type": "execute_result", "execution_count": 3, "metadata": {}, "data": widget}
    error = {"output_type": "error", "ename": "KeyError", "evalue": "'x'", "traceback": ["long"]}
    other = {**error, "evalue": "'y'"}
    columns = [{"cells": [{"status": "error", "outputs": [rich, shown, each]}]} for each in (error, other)]
    (change,) = await changes.told(columns)
    assert change["diff"] == "## modified /cells/0/outputs/2/evalue:\n-  'x'\n+  'y'\n\n"
