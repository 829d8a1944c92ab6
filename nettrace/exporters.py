"""How metrics leave: by HTTP, or in a file."""

import ipaddress
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socket import AF_INET, AF_INET6
from typing import Protocol

from .errors import UsageError
from .kept import Replaced

LOOPBACK = "127.0.0.1"
_CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_REQUEST_TIMEOUT_S = 5
_FILE_PERIOD_S = 5
_TICK_S = 0.5


class Exporter(Protocol):
    """A way by which metrics leave."""

    def exported(self, render: Callable[[], str], tick: Callable[[], None]) -> AbstractContextManager[None]:
        """Tells what `render` returns for the time of a with block, and calls `tick` about twice a second."""


def exporter(target: str) -> Exporter:
    """What --metrics names: PORT, ADDRESS:PORT or a file; raises UsageError."""
    match = re.fullmatch(r"(?:(?P<address>[0-9.]+|\[[0-9A-Fa-f:.]+\]):)?(?P<port>[0-9]{1,5})", target)
    if match:
        address = (match["address"] or LOOPBACK).strip("[]")
        try:
            ipaddress.ip_address(address)
        except ValueError:
            raise UsageError(f"--metrics: '{address}' is no address to listen on") from None
        return HttpExporter(address, int(match["port"]))
    if "/" not in target and not target.endswith(".prom"):
        raise UsageError(f"--metrics needs a port, ADDRESS:PORT or a file such as nettrace.prom, not '{target}'")
    return FileExporter(target)


class HttpExporter:
    """Answers GET /metrics."""

    def __init__(self, address: str, port: int) -> None:
        try:
            self._server = _Server((address, port), _Handler)
        except (OSError, OverflowError) as error:
            why = getattr(error, "strerror", None) or str(error)
            raise UsageError(f"--metrics: nothing can listen on {address} port {port}: {why}") from error

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._server.server_address[1])

    @contextmanager
    def exported(self, render: Callable[[], str], tick: Callable[[], None]) -> Iterator[None]:
        """Answers for the time of a with block."""
        self._server.render, self._server.service_actions = render, tick  # type: ignore[method-assign]
        thread = threading.Thread(target=partial(self._server.serve_forever, _TICK_S), daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._server.shutdown()
            thread.join()
            self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    render: Callable[[], str]

    def __init__(self, address: tuple[str, int], handler: "type[BaseHTTPRequestHandler]") -> None:
        self.address_family = AF_INET6 if ":" in address[0] else AF_INET
        super().__init__(address, handler)


class _Handler(BaseHTTPRequestHandler):
    timeout = _REQUEST_TIMEOUT_S
    server: _Server

    def do_GET(self) -> None:
        if self.path.partition("?")[0] != "/metrics":
            self.send_error(404, "there is only /metrics")
            return
        body = self.server.render().encode()
        self.send_response(200)
        self.send_header("Content-Type", _CONTENT_TYPE)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Requests are not told."""


class FileExporter:
    """Keeps a file up to date, as node_exporter's textfile collector reads it."""

    def __init__(self, path: str) -> None:
        # That of another user who is to read it; it has nothing of packets.
        self._file = Replaced("--metrics", path, 0o644)

    @contextmanager
    def exported(self, render: Callable[[], str], tick: Callable[[], None]) -> Iterator[None]:
        """Writes it every few seconds for the time of a with block, and once more at its end."""
        ended = threading.Event()

        def keep() -> None:
            due = 0.0
            while not ended.wait(_TICK_S):
                tick()
                if time.monotonic() >= due:
                    due = time.monotonic() + _FILE_PERIOD_S
                    with suppress(UsageError):  # a full disk may have room again
                        self._file.write(render().encode())

        thread = threading.Thread(target=keep, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            self._file.write(render().encode())
