"""A server that goes away for a while: a relay in front of it that cuts and refuses connections."""

import contextlib
import math
import socket
import socketserver
import threading
from collections.abc import Iterator
from types import TracebackType
from typing import Self

from aligner_jobs.runtime import free_port


class Relay:
    """Passes TCP connections on to ``port``, in threads of its own, within a ``with`` block."""

    def __init__(self, port: int) -> None:
        self.port = free_port()
        self._target = port
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        self.come_back()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.go_away()

    def come_back(self) -> None:
        """Take connections again."""
        self._server = _Server(self.port, self._target)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def hold_after(self, more_bytes: int) -> threading.Event:
        """Pass on so many more and then nothing until :meth:`go_away`; set from then on."""
        assert self._server is not None
        return self._server.hold_after(more_bytes)

    def go_away(self) -> None:
        """Cut all connections and refuse new ones; nothing is open any more when it returns."""
        server, thread = self._server, self._thread
        if server is None or thread is None:
            return
        server.shutdown()
        server.cut()
        server.server_close()
        thread.join()
        self._server = self._thread = None


class _Server(socketserver.ThreadingTCPServer):
    """The relay from one coming to the next going."""

    allow_reuse_address = True
    request_queue_size = 128

    def __init__(self, port: int, target: int) -> None:
        self._passed_bytes = 0
        self.target = ("127.0.0.1", target)
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._held, self._hold_at = threading.Event(), math.inf
        self._open: set[socket.socket] = set()
        super().__init__(("127.0.0.1", port), _Connection)

    def cut(self) -> None:
        """End all connections, and those that have been taken but not been served yet."""
        with self._lock:
            self._over.set()
            for end in self._open:
                _shut(end)

    def hold_after(self, more_bytes: int) -> threading.Event:
        """See :class:`Relay`."""
        with self._lock:
            self._hold_at = self._passed_bytes + more_bytes
        return self._held

    @contextlib.contextmanager
    def holding(self, *ends: socket.socket) -> Iterator[None]:
        """Within it the ``ends`` of a connection are cut with all others."""
        with self._lock:
            self._open.update(ends)
            if self._over.is_set():
                for end in ends:
                    _shut(end)
        try:
            yield
        finally:
            with self._lock:
                self._open.difference_update(ends)

    def pump(self, source: socket.socket, sink: socket.socket) -> None:
        """Pass on what comes until there is no more, and then end the connection."""
        with contextlib.suppress(OSError):
            while chunk := source.recv(1 << 16):
                with self._lock:
                    self._passed_bytes += len(chunk)
                    held = self._passed_bytes >= self._hold_at
                if held:
                    self._held.set()
                    self._over.wait()
                sink.sendall(chunk)
        _shut(sink)


class _Connection(socketserver.BaseRequestHandler):
    """One client's, from its first byte to its last."""

    request: socket.socket
    server: _Server

    def handle(self) -> None:
        server = self.server
        with (
            contextlib.suppress(OSError),
            socket.create_connection(server.target) as target,
            server.holding(self.request, target),
        ):
            back = threading.Thread(target=server.pump, args=(target, self.request))
            back.start()
            server.pump(self.request, target)
            back.join()


def _shut(end: socket.socket) -> None:
    with contextlib.suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
