"""Operations: told of, bounded, forgotten in time, cancelled where they can be."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace

import pytest

from jupyter_vsandbox.domain.errors import Conflict, NotFound, Transient
from jupyter_vsandbox.server import operations
from jupyter_vsandbox.server.operations import Operations, Phase
from jupyter_vsandbox.server.worker import Worker, to_its_end


@pytest.fixture
def told():
    return []


@pytest.fixture
def every(told):
    return Operations(lambda operation, lines: told.append((operation, lines)))


@pytest.fixture
def worker():
    worker = Worker()
    yield worker
    worker.close()


async def ended(every, operation):
    if task := every._tasks.get(operation.id):
        await asyncio.wait([task])
    return every.get(operation.id)


async def test_what_it_says_and_prints_is_told_before_its_end(every, told):
    async def work(report):
        report.progress("work", 0.5, "half")
        thread = threading.Thread(target=lambda: [report.line(str(i)) for i in range(3)])
        thread.start()
        await asyncio.to_thread(thread.join)
        report.line("last")
        return {"so": 1}

    begun = every.begin("diff", work, sandbox="s")
    assert told == [(begun, [])]
    last = await ended(every, begun)
    assert (last.phase, last.result, list(last.log)) == (Phase.DONE, {"so": 1}, ["0", "1", "2", "last"])
    assert last.ended >= last.began
    assert [line for _, lines in told for line in lines] == list(last.log)
    assert told[-1][0] == last
    assert last.progress.message == "half"


async def test_a_failure_is_told(every):
    async def refuse(report):
        raise Conflict("taken")

    async def break_down(report):
        raise KeyError("x")

    assert str((await ended(every, every.begin("diff", refuse))).error) == "taken"
    broken = await ended(every, every.begin("diff", break_down))
    assert (broken.phase, str(broken.error)) == (Phase.FAILED, "KeyError: 'x'")


async def test_a_cancelled_one_has_ended_when_it_says_so(every, worker):
    cleaned = []
    waiting = threading.Event()

    async def wait():
        try:
            waiting.set()
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.05)
            cleaned.append(True)

    begun = every.begin("diff", lambda report: worker.call(wait()), cancellable=True)
    await asyncio.to_thread(waiting.wait)
    every.cancel(begun.id)
    assert (await ended(every, begun)).phase is Phase.CANCELLED
    assert cleaned == [True]
    assert every.cancel(begun.id).phase is Phase.CANCELLED


async def test_what_is_committed_runs_to_its_end(every, worker):
    begun_work, go_on = threading.Event(), threading.Event()

    async def commit():
        begun_work.set()
        await asyncio.to_thread(go_on.wait)
        return {"whole": True}

    async def work(report):
        return await worker.call(to_its_end(commit()))

    begun = every.begin("snapshot", work, cancellable=True)
    await asyncio.to_thread(begun_work.wait)
    every.cancel(begun.id)  # just before it would have said that it cannot be cancelled any more
    await asyncio.sleep(0.05)
    go_on.set()
    assert (await ended(every, begun)).result == {"whole": True}


async def test_what_cannot_be_cancelled_is_not(every):
    stop = asyncio.Event()

    async def work(report):
        await stop.wait()

    begun = every.begin("stop", work)
    with pytest.raises(Conflict, match="cannot be cancelled"):
        every.cancel(begun.id)
    stop.set()
    assert (await ended(every, begun)).phase is Phase.DONE


async def test_there_is_a_limit(every, monkeypatch):
    monkeypatch.setattr(operations, "RUNNING_AT_ONCE", 2)

    async def work(report):
        await asyncio.Event().wait()

    for _ in range(2):
        every.begin("diff", work, cancellable=True)
    with pytest.raises(Transient):
        every.begin("diff", work)
    await every.close()
    assert {each.phase for each in every.all()} == {Phase.CANCELLED}


async def test_the_end_does_not_wait_for_ever(every, monkeypatch):
    monkeypatch.setattr(operations, "CLOSE_SECONDS", 0.05)

    async def work(report):
        await asyncio.Event().wait()

    stuck = every.begin("hibernate", work)
    await every.close()
    assert (await ended(every, stuck)).phase is Phase.CANCELLED


async def test_old_ones_are_forgotten_and_running_ones_are_not(every, monkeypatch):
    monkeypatch.setattr(operations, "KEPT", 2)
    stop = asyncio.Event()

    async def wait(report):
        await stop.wait()

    async def nothing(report):
        return None

    running = every.begin("diff", wait)
    quick = [every.begin("diff", nothing) for _ in range(4)]
    await ended(every, quick[-1])
    assert every.all()[0].id == running.id
    assert len(every.all()) == 3
    with pytest.raises(NotFound):
        every.get(quick[0].id)
    every._all = {k: replace(v, ended=v.ended and 1.0) for k, v in every._all.items()}
    assert [each.id for each in every.all()] == [running.id]
    stop.set()
    await every.close()
