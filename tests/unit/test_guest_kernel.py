"""The agent's own requests to a kernel."""

import types

import pytest

from jupyter_vsandbox.guest import agent, kernel
from jupyter_vsandbox.guest.protocol import DELIMITER


def frames(*parts):
    return [types.SimpleNamespace(bytes=part) for part in parts]


def test_cells_are_counted_from_request_to_reply():
    counter = types.SimpleNamespace(cells=0, taken=0)

    def count(header, kind, step):
        message = frames(b"client", DELIMITER, b"", header, b"{}", b"{}", b'{"msg_type": "execute_request"}')
        kernel.Kernel.count_cells(counter, message, kind, step)
        return counter.cells

    request, reply = b'"execute_request"', b'"execute_reply"'
    assert count(b'{"msg_type": "execute_request"}', request, 1) == 1
    assert count(b'{"msg_type":"execute_request"}', request, 1) == 2
    assert count(b'{"msg_type": "complete_request"}', request, 1) == 2
    assert count(b'{"msg_type": "execute_reply"}', reply, -1) == 1
    assert count(b'{"msg_type": "complete_reply"}', reply, -1) == 1
    assert count(b'{"msg_type": "execute_reply"}', reply, -1) == 0
    assert count(b'{"msg_type": "execute_reply"}', reply, -1) == 0
    assert counter.taken == 2


def test_a_message_that_is_cut_off_counts_nothing():
    counter = types.SimpleNamespace(cells=0, taken=0)
    for message in (frames(), frames(DELIMITER), frames(b"a", DELIMITER, b"")):
        kernel.Kernel.count_cells(counter, message, b'"execute_request"', 1)
    assert counter.cells == 0


def test_what_a_kernel_tells_is_taken_out_of_its_reply():
    value = {"status": "ok", "data": {"text/plain": "{}"}, "metadata": {}}
    assert agent.told({"status": "ok", "user_expressions": {"variables": value}}) == "{}"


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ({"status": "aborted"}, "aborted"),
        ({"status": "error", "evalue": "broken"}, "broken"),
        (
            {"status": "ok", "user_expressions": {"variables": {"status": "error", "evalue": "no eval"}}},
            "no eval",
        ),
        ({"status": "ok", "user_expressions": {"variables": {"status": "ok", "data": {}}}}, "ok"),
        ({"status": "ok", "user_expressions": None}, "ok"),
    ],
)
def test_what_a_kernel_does_not_tell_has_a_reason(content, why):
    with pytest.raises(agent.Failure, match=why):
        agent.told(content)


def test_a_late_answer_is_given_once():
    given = []
    later = agent.Later()
    later.fail("nobody listens yet")
    later.send = given.append
    later.answer({"a": 1})
    later.fail("too late")
    assert given == [{"result": {"a": 1}}]
