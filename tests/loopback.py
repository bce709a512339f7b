"""A web server of a test's own on 127.0.0.1."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Loopback:
    """Serves until it is closed, by a handler class that says nothing on stderr."""

    def serve(self, handler: type[BaseHTTPRequestHandler]) -> None:
        handler.protocol_version = "HTTP/1.1"
        handler.log_message = lambda *_: None  # type: ignore[method-assign, assignment]
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
