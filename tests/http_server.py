"""A web server on the loopback interface that serves a folder and can fail on purpose."""

import contextlib
import functools
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path


class _Handler(http.server.SimpleHTTPRequestHandler):
    def do_GET(self):
        self.server.requested.append(self.path)
        fault = self.server.faults.get(self.path)
        if isinstance(fault, list):
            fault = fault.pop(0) if fault else None
        if fault is None:
            super().do_GET()
        elif fault in ("truncate", "stall"):
            self._send_half()
            if fault == "stall":
                self.wfile.flush()
                self.server.ended.wait()
        elif isinstance(fault, str):
            self.send_response(302)
            self.send_header("Location", fault)
            for name, value in self.server.headers.get(self.path, {}).items():
                self.send_header(name, value)
            self.end_headers()
        else:
            self.send_error(fault)

    def _send_half(self):
        content = Path(self.translate_path(self.path)).read_bytes()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2])

    def log_message(self, *args):
        pass


class Server(http.server.ThreadingHTTPServer):
    """Serves a folder at `url`, which ends with a slash.

    `faults`: path -> an HTTP status, "truncate", "stall" or an address to redirect to; a list of
    them applies to one request each, then requests succeed. `headers`: path -> headers of its redirect.
    `requested`: paths in order.
    """

    def __init__(self, folder: Path):
        super().__init__(("127.0.0.1", 0), functools.partial(_Handler, directory=folder))
        self.url = f"http://127.0.0.1:{self.server_port}/"
        self.faults: dict[str, int | str | list] = {}
        self.headers: dict[str, dict[str, str]] = {}
        self.ended = threading.Event()
        self.requested: list[str] = []


@contextlib.contextmanager
def serve(folder: Path) -> Iterator[Server]:
    """Serve `folder` while the block runs."""
    with Server(folder) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.ended.set()
            server.shutdown()
            thread.join()
