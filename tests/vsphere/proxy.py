"""A network that fails at the moment that a test asks for: between the driver and the simulator."""

from __future__ import annotations

import contextlib
import http.client
import http.server
import ssl
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.vsphere.simulator import Authority


class Proxy:
    """Hands requests on. One that holds `method` is lost before or after it was carried out, once."""

    def __init__(self, port: int, authority: Authority) -> None:
        self._target = port
        self._authority = authority
        self._lose: tuple[str, str] | None = None
        self._lock = threading.Lock()
        self.calls: list[str] = []
        self.port = 0

    def lose(self, method: str, when: str) -> None:
        """Lose the next call of a method ``before`` or ``after`` the vCenter has it."""
        self._lose = (method, when)

    @property
    def lost(self) -> bool:
        """Whether what `lose` asked for has happened."""
        return self._lose is None

    def _losing(self, body: bytes) -> str:
        with self._lock:
            if self._lose is not None and f"<{self._lose[0]} ".encode() in body:
                when, self._lose = self._lose[1], None
                return when
            return ""

    @contextlib.contextmanager
    def running(self) -> Iterator[Proxy]:
        """It listens at `port` for the length of a block."""
        proxy = self
        trust = ssl.create_default_context(cafile=str(self._authority.ca))

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self.do_POST()

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                losing = proxy._losing(body)
                if losing != "before":
                    target = http.client.HTTPSConnection(
                        "127.0.0.1", proxy._target, context=trust, timeout=30
                    )
                    try:
                        keep = {n: v for n, v in self.headers.items() if n.lower() not in {"host"}}
                        target.request(self.command, self.path, body, keep)
                        answer = target.getresponse()
                        content = answer.read()
                        if not losing:
                            self.send_response(answer.status)
                            for name, value in answer.getheaders():
                                if name.lower() not in {"content-length", "transfer-encoding", "connection"}:
                                    self.send_header(name, value)
                            self.send_header("Content-Length", str(len(content)))
                            self.end_headers()
                            self.wfile.write(content)
                            return
                    finally:
                        target.close()
                self.close_connection = True
                with contextlib.suppress(OSError):
                    self.connection.close()

            def log_message(self, *_: object) -> None:
                pass

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: object) -> None:
                """Whoever is cut off is told by that."""

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self._authority.cert, self._authority.key)
        server = Server(("127.0.0.1", 0), Handler)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        self.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            server.shutdown()
            server.server_close()
            thread.join()
