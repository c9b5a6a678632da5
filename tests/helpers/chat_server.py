"""A server that speaks /v1/chat/completions, in a thread of the test."""

from __future__ import annotations

import contextlib
import http.server
import json
import threading
from collections.abc import Callable, Iterator
from typing import Any


def reply(text: str, tokens: int | None = 5, finish: str = "stop", **message: Any) -> dict[str, Any]:
    """The body of a completion."""
    usage = {} if tokens is None else {"usage": {"completion_tokens": tokens}}
    return {"choices": [{"message": {"content": text, **message}, "finish_reason": finish}], **usage}


@contextlib.contextmanager
def chat_server(answer: Callable[[dict[str, Any]], Any]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Yields the address of the server, and the list of the bodies and headers that it has received.

    answer: body of a request -> body of the reply, or (status, body, headers).
    """
    received: list[dict[str, Any]] = []
    lock = threading.Lock()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                received.append({**body, "path": self.path, "key": self.headers.get("Authorization")})
                given = answer(body)
            status, content, headers = given if isinstance(given, tuple) else (200, given, {})
            data = content.encode() if isinstance(content, str) else json.dumps(content).encode()
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", received
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
