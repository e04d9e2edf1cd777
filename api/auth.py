"""Who is calling: every path but the health checks wants a key (`Authorization: Bearer ...`).

It is checked before routing, so that a new route cannot forget it.
"""

from __future__ import annotations

import hashlib
import hmac

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from api.errors import UnauthorizedError, problem_of

OPEN_PATHS = frozenset({"/livez", "/readyz"})
ADMIN = "admin"


class KeyRequired:
    """ASGI middleware that lets only known callers through, and says who they are in `request.state.actor`."""

    def __init__(self, app: ASGIApp, admin_key: str) -> None:
        self._app = app
        self._admin_digest = hashlib.sha256(admin_key.encode()).digest()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the call on, or answer 401."""
        if scope["type"] != "http" or scope["path"] in OPEN_PATHS:
            await self._app(scope, receive, send)
            return
        request = Request(scope)
        kind, _, key = request.headers.get("authorization", "").partition(" ")
        given = hashlib.sha256(key.strip().encode("utf-8", "surrogateescape")).digest()
        if kind.lower() != "bearer" or not hmac.compare_digest(given, self._admin_digest):
            error = UnauthorizedError(
                "This needs a valid API key.", "Send it as 'Authorization: Bearer KEY'; `ledger up` shows it."
            )
            await problem_of(error)(scope, receive, send)
            return
        request.state.actor = ADMIN
        await self._app(scope, receive, send)
