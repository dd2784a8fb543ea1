"""What a guest asks for: well-formed and its own, or nothing happens."""

import asyncio
import base64
import json
import random
from dataclasses import fields

import pytest

from jupyter_vsandbox.core.service import SandboxService
from jupyter_vsandbox.domain import errors
from jupyter_vsandbox.domain.errors import InvalidRequest
from jupyter_vsandbox.domain.model import Cause, Sandbox, Shape, Snapshot, State
from jupyter_vsandbox.guest.protocol import MAX_ASKING
from jupyter_vsandbox.kernel import guest_requests, guest_wire
from jupyter_vsandbox.kernel.guest_requests import GuestRequests

REQUESTS = 100_000
MINE = Sandbox("aaaa00000001", "python-3.11", "i", "qemu", State.STOPPED, Shape(1, 1), 1.0, name="mine")
OTHER = Sandbox("bbbb00000001", "python-3.11", "i", "qemu", State.STOPPED, Shape(1, 1), 2.0, name="other")
FORK = Sandbox(
    "aaaa00000002", "python-3.11", "i", "qemu", State.STOPPED, Shape(1, 1), 3.0, name="fork", origin=MINE.id
)
THEIRS = Sandbox(
    "bbbb00000002", "python-3.11", "i", "qemu", State.STOPPED, Shape(1, 1), 4.0, name="try", origin=OTHER.id
)


def snapshot(number, sandbox, name):
    return Snapshot(
        id=f"{number:012x}",
        sandbox=sandbox.id,
        machine=sandbox.id,
        parent="",
        name=name,
        note="",
        cause=Cause.ASKED,
        created=float(number),
        memory=True,
        cells=False,
        size=1,
        pause=0.0,
    )


SNAPSHOT = snapshot(1, MINE, "first")
SECRET = snapshot(2, OTHER, "secret")


@pytest.fixture
def service(settings):
    with SandboxService(settings) as service:
        for sandbox in (MINE, OTHER, FORK, THEIRS):
            service._store.add(sandbox)
        service._store.add_snapshot(SNAPSHOT)
        service._store.add_snapshot(SECRET)
        yield service


class Guest:
    """Asks as the agent of `MINE` would, and keeps the answers."""

    def __init__(self, service):
        self.answers = {}
        self.requests = GuestRequests(service, self.answer)
        self.number = 0

    async def answer(self, number, line):
        self.answers[number] = json.loads(line)

    async def ask(self, verb, **args):
        self.number += 1
        self.requests.take({"event": "asked", "number": self.number, "verb": verb, "args": args}, MINE.id)
        await self.settled()
        return self.answers.get(self.number)

    async def settled(self):
        while self.requests._asked:
            await asyncio.gather(*self.requests._asked.values(), return_exceptions=True)


def asking(service, verb, **args):
    return asyncio.run(Guest(service).ask(verb, **args))


@pytest.mark.parametrize(
    ("verb", "args", "complaint"),
    [
        ("format", {}, "no verb 'format'"),
        (None, {}, "no verb of type NoneType"),
        ("status", [], "must be an object"),
        ("status", {"sandbox": OTHER.id}, "takes no argument 'sandbox'"),
        ("rollback", {}, "needs the argument 'snapshot'"),
        ("rollback", {"snapshot": 7}, "must be text"),
        ("rollback", {"snapshot": "a", "notebook": 1}, "true or false"),
        ("rollback", {"snapshot": "../../etc/passwd"}, "must begin with a letter"),
        ("snapshot", {"name": "a/b"}, "must begin with a letter"),
        ("snapshot", {"name": "a\0b"}, "printable"),
        ("snapshot", {"name": "-x"}, "must begin with a letter"),
        ("snapshot", {"name": "x" * 65}, "longer than 64"),
        ("snapshot", {"note": "\ud800"}, "no character"),
        ("snapshot", {"note": "two\nlines"}, "printable"),
        ("compare", {"code": "1", "runtimes": "python"}, "list of at most"),
        ("compare", {"code": "1", "runtimes": ["a"] * 7}, "list of at most"),
        ("compare", {"code": "1", "runtimes": ["a", "a"]}, "twice"),
        ("compare", {"code": "1", "runtimes": ["../a"]}, "runtime's name"),
        ("compare", {"code": "1", "given": "%"}, "base64"),
        ("compare", {"code": "1", "seconds": float("nan")}, "number of seconds"),
        ("compare", {"code": "1", "seconds": True}, "number of seconds"),
        ("try", {"command": "a\nb"}, "printable"),
        ("try", {"command": "a", "cells": [1]}, "must be text"),
    ],
)
def test_what_is_malformed_is_refused(verb, args, complaint):
    with pytest.raises(InvalidRequest, match=complaint):
        guest_wire.request({"verb": verb, "args": args})


def test_every_argument_of_every_verb_is_checked():
    for kind in guest_wire.VERBS.values():
        assert {field.name for field in fields(kind)} <= set(guest_wire._CHECKS)


def test_a_request_is_read():
    event = {"verb": "compare", "args": {"code": "x", "runtimes": ["a", "b"], "seconds": 3}}
    assert guest_wire.request(event) == guest_wire.Compare("x", ("a", "b"), seconds=3.0)


@pytest.mark.parametrize("number", [None, "1", True, -1, 1.0, 1 << 60, [1]])
def test_a_request_without_a_number_gets_nothing(number):
    assert guest_wire.number({"number": number}) is None


def test_a_guest_sees_its_own_snapshots_and_forks_only(service):
    assert [each["name"] for each in asking(service, "history")["result"]] == ["first"]
    for verb, args in (
        ("rollback", {"snapshot": "secret"}),
        ("rollback", {"snapshot": SECRET.id}),
        ("diff", {"old": SECRET.id}),
        ("diff", {"old": "first", "new": "other@secret"}),
        ("run_in", {"fork": "other", "code": "1"}),
        ("run_in", {"fork": OTHER.id, "code": "1"}),
        ("run_in", {"fork": MINE.id, "code": "1"}),
        ("run_in", {"fork": THEIRS.id, "code": "1"}),
        ("keep", {}),
        ("discard", {}),
    ):
        assert asking(service, verb, **args)["kind"] == "NotFound", verb
    assert {sandbox.id for sandbox in service.list()} == {MINE.id, OTHER.id, FORK.id, THEIRS.id}


def test_a_guest_that_asks_too_much_is_told_so(service, monkeypatch):
    monkeypatch.setattr(guest_requests, "PER_SECOND", 0.0)

    async def many():
        guest = Guest(service)
        return [await guest.ask("history") for _ in range(guest_requests.BURST + 1)]

    *served, refused = asyncio.run(many())
    assert all("result" in each for each in served)
    assert refused["kind"] == "Transient"


def test_a_number_that_is_in_use_is_not_taken_twice(service):
    async def twice():
        guest = Guest(service)
        event = {"event": "asked", "number": 1, "verb": "history", "args": {}}
        for _ in range(3):
            guest.requests.take(event, MINE.id)
        count = len(guest.requests._asked)
        await guest.settled()
        return count, guest.answers

    count, answers = asyncio.run(twice())
    assert count == 1
    assert "result" in answers[1]


def test_what_is_withdrawn_is_cancelled_once_and_answered_never(service, monkeypatch):
    begun, ended = asyncio.Event(), []

    async def compare(*_):
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)  # cleaning up takes its time
            ended.append(True)

    monkeypatch.setattr(guest_requests.comparison, "in_runtimes", compare)
    monkeypatch.setattr(guest_requests.build, "find", lambda *_: None)

    async def withdrawn():
        guest = Guest(service)
        event = {"event": "asked", "number": 1, "verb": "compare", "args": {"code": "", "runtimes": ["a"]}}
        guest.requests.take(event, MINE.id)
        await begun.wait()
        for _ in range(2):
            guest.requests.take({"event": "withdrawn", "number": 1}, MINE.id)
        guest.requests.drop()
        await guest.requests.close()
        return guest.answers

    assert asyncio.run(withdrawn()) == {}
    assert ended == [True]


NASTY = [
    None,
    True,
    0,
    -1,
    1 << 70,
    1e308,
    float("nan"),
    "",
    "first",
    "fork",
    "secret",
    "other",
    MINE.id,
    OTHER.id,
    THEIRS.id,
    SECRET.id,
    "other@secret",
    "../../../etc/passwd",
    "/etc/shadow",
    "..",
    "a\0b",
    "a\nb",
    "\ud800",
    "\u202e",
    "-rf",
    "'; DROP TABLE sandboxes; --",
    "%s%n{0}",
    "$(reboot)",
    "x" * 5000,
    [],
    ["python-3.11"],
    ["first"] * 100,
    [["a"]],
    {},
    {"a": {"b": []}},
]


def nasty_event(dice):
    """An event as a guest may make it that has taken its agent over."""
    verb = dice.choice([*guest_wire.VERBS, *guest_wire.VERBS, dice.choice(NASTY)])
    kind = guest_wire.VERBS.get(verb) if isinstance(verb, str) else None
    names = [field.name for field in fields(kind)] if kind else []
    args = {name: dice.choice(NASTY) for name in names if dice.random() < 0.8}
    if dice.random() < 0.1:
        args[dice.choice(["sandbox", "id", "snapshot_id", "self", "__class__", ""])] = dice.choice(NASTY)
    event = {"event": dice.choice(["asked"] * 9 + ["withdrawn"]), "number": dice.randrange(64)}
    event |= {"verb": verb, "args": args}
    for key in ("number", "verb", "args"):
        if dice.random() < 0.03:
            event[key] = dice.choice(NASTY)
        elif dice.random() < 0.01:
            del event[key]
    return event


@pytest.mark.timeout(300)
def test_no_request_reaches_beyond_the_guests_own(service, monkeypatch):
    monkeypatch.setattr(guest_requests, "BURST", REQUESTS)
    monkeypatch.setattr(guest_requests, "PER_SECOND", float(REQUESTS))
    monkeypatch.setattr(guest_requests, "_log", guest_requests.logging.getLogger("fuzz"))
    dice = random.Random(5)
    kinds = set()

    def beyond():
        others = [each for each in service.list() if MINE.id not in (each.id, each.origin)]
        return [others, [service.history(each.id) for each in others]]

    before = beyond()

    async def fuzz():
        guest = Guest(service)
        guest.requests._allowed = float(REQUESTS)
        for number in range(REQUESTS):
            event = nasty_event(dice)
            try:
                guest_wire.request(event)
            except InvalidRequest:
                if dice.random() < 0.9:  # they all go the same way
                    continue
            else:
                if dice.random() < 0.5:  # what is done takes its time
                    continue
            guest.requests.take(event, MINE.id)
            if number % MAX_ASKING == 0:
                await guest.settled()
                kinds.update(answer.get("kind", "") for answer in guest.answers.values())
                guest.answers.clear()
        await guest.settled()
        await guest.requests.close()

    asyncio.run(fuzz())
    assert beyond() == before
    known = {name for name in dir(errors) if isinstance(getattr(errors, name), type)}
    assert kinds <= known | {""}, "an error that nobody raised on purpose"
    assert {"", "InvalidRequest", "NotFound"} <= kinds


def test_what_is_given_is_base64():
    given = base64.b64encode(b"\0" * 1000).decode()
    assert guest_wire.request({"verb": "compare", "args": {"code": "", "given": given}}).given == given
