"""Processes that end."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys

from jupyter_vsandbox.drivers.qemu.process import Process

# So much memory that its end takes a while; two threads, as QEMU has.
CHILD = """
import sys, threading
memory = bytearray(1 << 29)
for at in range(0, len(memory), 4096):
    memory[at] = 1
threading.Thread(target=threading.Event().wait).start()
print("ready", flush=True)
"""


def test_a_process_is_alive_until_it_has_let_go_of_its_files() -> None:
    for _ in range(3):
        child = subprocess.Popen([sys.executable, "-c", CHILD, "the-mark"], stdout=subprocess.PIPE)
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        process = Process(child.pid, "the-mark")
        assert process.alive()
        assert not Process(child.pid, "another").alive()
        ended = os.pidfd_open(child.pid)
        try:
            child.send_signal(signal.SIGKILL)
            while process.alive():
                pass
            assert select.select([ended], [], [], 0)[0], "it was said to have ended before it had"
        finally:
            os.close(ended)
            child.wait()
            child.stdout.close()
        assert not process.alive()
