"""What the agents' effects change: it takes each key once, and counts how often it came."""

import threading
import time
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Receiver:
    """Counts of effects by idempotency key, and when each came first."""

    def __init__(self) -> None:
        self.came: Counter[str] = Counter()
        self.times_s: dict[str, list[float]] = {}
        self._lock = threading.Lock()
        self.address = ""

    def take(self, key: str) -> None:
        with self._lock:
            self.came[key] += 1
            self.times_s.setdefault(key, []).append(time.monotonic())

    def effects(self, run_id: str) -> list[str]:
        """Return the keys of a run that came, each once: what was really changed."""
        with self._lock:
            return sorted((key for key in self.came if key.startswith(f"{run_id}:")), key=number)

    def repeated(self, run_id: str) -> list[str]:
        """Return the keys that came more than once."""
        return [key for key in self.effects(run_id) if self.came[key] > 1]

    def first_after(self, run_id: str, after_s: float) -> float | None:
        """Return when the first effect of a run came after that time."""
        with self._lock:
            own = [ts for key, ts in self.times_s.items() if key.startswith(f"{run_id}:")]
        return min((t for ts in own for t in ts if t > after_s), default=None)


def number(key: str) -> int:
    return int(key.rpartition(":")[2])


@contextmanager
def receiving() -> Generator[Receiver]:
    """Serve on a free port of this machine until the block ends."""
    receiver = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            receiver.take(self.path.removeprefix("/"))
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:  # type: ignore[override]
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    receiver.address = f"127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield receiver
    finally:
        server.shutdown()
        server.server_close()
