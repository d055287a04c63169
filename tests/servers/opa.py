"""A policy server for tests, for OPA itself is in no registry that we use.

It speaks the Data API of https://www.openpolicyagent.org/docs/rest-api (`POST /v1/data/PATH` with
`{"input"}` answers `{"result"}`, or `{}` where that is undefined; `GET /health`); its policies are
Rego, evaluated by Microsoft's rego-cpp.
"""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import regopy


class PolicyServer:
    """Decides by a module of Rego; how it answers can be changed while it runs."""

    def __init__(self, module: str) -> None:
        self.module = module
        self.inputs: list[Any] = []
        self.keys: list[str | None] = []
        self.answer: tuple[int, bytes] | None = None
        """Said instead of a decision."""
        self.answering = threading.Event()
        """While it is cleared, nobody gets an answer."""
        self.answering.set()
        self.port = 0
        self._server: ThreadingHTTPServer | None = None
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1/data/murmurate/allow"

    def start(self) -> None:
        """Listen, on the same port as before."""
        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), _handler(self))
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        """Be gone: connections are refused."""
        self.answering.set()
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def decided(self, path: str, given: Any) -> dict[str, Any]:
        """Return what a path of the data API answers to an input."""
        interpreter = regopy.Interpreter()
        interpreter.add_module("policy", self.module)
        interpreter.set_input(given)
        name = path.removeprefix("/v1/data/").replace("/", ".")
        said = str(interpreter.query(f"found = data.{name}"))
        return {} if said == "undefined" else {"result": json.loads(said)["bindings"]["found"]}


def _handler(server: PolicyServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            server.inputs.append(body["input"])
            server.keys.append(self.headers["Authorization"])
            server.answering.wait()
            if server.answer is not None:
                self._say(*server.answer)
                return
            self._say(200, json.dumps(server.decided(self.path, body["input"])).encode())

        def do_GET(self) -> None:
            self._say(200 if self.path == "/health" else 404, b"{}")

        def _say(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing."""

    return Handler
