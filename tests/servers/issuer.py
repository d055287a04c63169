"""A real issuer of tokens for tests: OpenID discovery and keys over HTTP, on a port of its own.

It signs with joserfc, so that what we check with another library was not made by the same one.
"""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from joserfc import jws, jwt
from joserfc.jwk import ECKey, Key, OctKey, OKPKey, RSAKey

ALGORITHMS = ["RS256", "PS256", "ES256", "ES384", "EdDSA", "Ed25519", "HS256", "RS512"]
METADATA = "/realms/town/.well-known/openid-configuration"
KEYS = "/realms/town/protocol/openid-connect/certs"


class TokenIssuer:
    """Signs anything; what it publishes and how it answers can be changed while it runs."""

    def __init__(self) -> None:
        self.published: list[Key] = []
        self.asked: list[str] = []
        self.metadata: dict[str, Any] = {}
        self.answers: dict[str, tuple[int, bytes]] = {}
        """Said at these paths instead of what is right."""
        self.max_age_s: int | None = None
        self.answering = threading.Event()
        """While it is cleared, nobody gets an answer."""
        self.answering.set()
        self._server: ThreadingHTTPServer | None = None
        self.port = 0
        self.start()
        self.key: Any = self.new_key("RS256")
        """What it signs with."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/realms/town"

    @property
    def keys_asked(self) -> int:
        """How often its keys were asked for."""
        return self.asked.count(KEYS)

    def new_key(self, algorithm: str, *, key_id: str | None = None, publish: bool = True) -> Key:
        """Make a key, and publish it beside the others."""
        facts: Any = {"kid": key_id or f"{algorithm}-{len(self.published)}", "use": "sig"}
        match algorithm:
            case "EdDSA" | "Ed25519":
                key: Key = OKPKey.generate_key("Ed25519", facts)
            case "ES256" | "ES384":
                key = ECKey.generate_key({"ES256": "P-256", "ES384": "P-384"}[algorithm], facts)
            case "HS256":
                key = OctKey.generate_key(256, facts)
            case _:
                key = RSAKey.generate_key(2048, facts)
        if publish:
            self.published.append(key)
        return key

    def rotate(self, algorithm: str = "RS256") -> Key:
        """Sign with a new key from now on, and publish no other."""
        self.published = []
        self.key = self.new_key(algorithm, key_id=f"turn-{time.monotonic_ns()}")
        return self.key

    def claims(self, **changes: Any) -> dict[str, Any]:
        """Return what a token of Keycloak's says; a claim of None is left out."""
        now_s = int(time.time())
        claims = {
            "exp": now_s + 300,
            "iat": now_s,
            "jti": "onrtac:1f0d1e2c-0a5b-4a57-9b1c-3f1d5f0b9a10",
            "iss": self.url,
            "aud": ["murmurate", "account"],
            "sub": "f3b2c1d0-5a6b-4c7d-8e9f-0a1b2c3d4e5f",
            "typ": "Bearer",
            "azp": "portal",
            "sid": "8d1c2b3a-7f6e-4d5c-9b8a-1a2b3c4d5e6f",
            "acr": "1",
            "realm_access": {"roles": ["default-roles-town", "offline_access", "user"]},
            "resource_access": {"murmurate": {"roles": ["developer"]}},
            "scope": "openid profile email",
            "email_verified": True,
            "preferred_username": "ada",
        }
        return {name: it for name, it in {**claims, **changes}.items() if it is not None}

    def token(
        self,
        *,
        key: Any = None,
        algorithm: str = "RS256",
        header: dict[str, Any] | None = None,
        **changes: Any,
    ) -> str:
        """Return a signed token; see `claims` for the changes."""
        key = self.key if key is None else key
        facts = {"alg": algorithm, "typ": "JWT", "kid": key.kid, **(header or {})}
        facts = {name: it for name, it in facts.items() if it is not None}
        registry = jws.JWSRegistry(algorithms=ALGORITHMS)
        return jwt.encode(
            facts, self.claims(**changes), key, algorithms=ALGORITHMS, registry=registry
        )

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

    def said_at(self, path: str) -> tuple[int, bytes]:
        """Return what is answered at a path."""
        if path in self.answers:
            return self.answers[path]
        if path == METADATA:
            keys = f"http://127.0.0.1:{self.port}{KEYS}"
            said: Any = {"issuer": self.url, "jwks_uri": keys, **self.metadata}
        elif path == KEYS:
            said = {"keys": [key.as_dict(private=key.key_type == "oct") for key in self.published]}
        else:
            return 404, b"{}"
        return 200, json.dumps(said).encode()


def _handler(issuer: TokenIssuer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            issuer.asked.append(self.path)
            issuer.answering.wait()
            status, body = issuer.said_at(self.path)
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            if status in {301, 302}:
                self.send_header("Location", issuer.url)
            if issuer.max_age_s is not None:
                self.send_header("Cache-Control", f"public, max-age={issuer.max_age_s}")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing."""

    return Handler
