"""Who is calling, by what stands in `Authorization: Bearer ...`: the admin key, an API key, or a token.

Rules:
1. Who shows nothing, or what is not right, is anonymous, and learns only that. Who shows the right secret of a key that
   is revoked or has expired is told so, for nobody else has it.
2. Nothing about a key is remembered from one request to the next. What is known of a token's signer is, for a while.
3. PostgreSQL is asked by threads of their own, few of them: a database that is slow or away takes no thread from
   uploads that are coming in, and the admin key opens without it.
"""

from __future__ import annotations

import asyncio
import contextvars
import hashlib
import hmac
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from typing import TypeVar
from uuid import uuid4

from api.access_record import AccessRecord
from api.errors import UnauthorizedError
from api.tokens import Tokens
from ledger import keys
from ledger.application import Ledger
from ledger.domain.access import ADMIN, Caller
from ledger.domain.base import Stamp
from ledger.settings import Settings
from ledger.users import Users

KEY_THREADS = 8
TOKEN_THREADS = 4
SHOW_IT = "Send it as 'Authorization: Bearer KEY'; `ledger up` shows it, and `ledger keys create` makes others."
ASK_FOR_ANOTHER = "Ask an admin for another one: `ledger keys create`."

Answer = TypeVar("Answer")


class Identification:
    """Tells who calls."""

    def __init__(self, admin_key: str, settings: Settings, ledger: Ledger, record: AccessRecord) -> None:
        self._admin_digest = _digest(admin_key)
        self._ledger = ledger
        self._record = record
        self._users = Users(ledger)
        self._tokens = Tokens(settings) if settings.oidc_issuer else None
        self._key_threads = ThreadPoolExecutor(KEY_THREADS, "keys")
        self._token_threads = ThreadPoolExecutor(TOKEN_THREADS, "tokens")

    async def caller(self, authorization: Sequence[str]) -> Caller:
        """Who shows these headers.

        Raises:
            UnauthorizedError: they do not say who that is.
            PartUnavailableError: PostgreSQL or the identity provider is away, so nobody can tell.
        """
        if len(authorization) > 1:
            raise _refused("There is more than one Authorization header.", "several_credentials")
        scheme, _, credential = "".join(authorization).partition(" ")
        credential = credential.strip()
        if scheme.lower() != "bearer" or not credential:
            raise _refused("This needs a valid API key.", "no_credentials")
        if hmac.compare_digest(_digest(credential), self._admin_digest):
            return ADMIN
        shown = keys.KEY.fullmatch(credential)
        if shown is not None:
            return await _in(self._key_threads, partial(self._of_key, shown["key_id"], shown["secret"]))
        if self._tokens is not None and credential.count(".") == 2:
            return await _in(self._token_threads, partial(self._of_token, self._tokens, credential))
        raise _refused("This needs a valid API key.", "wrong_key")

    async def ask(self, question: Callable[[], Answer]) -> Answer:
        """Ask PostgreSQL something that decides about a request."""
        return await _in(self._key_threads, question)

    def _of_key(self, key_id: str, secret: str) -> Caller:
        known = keys.look_up(self._ledger, key_id)
        if known is None or not known.is_opened_by(secret):
            raise _refused("This needs a valid API key.", "wrong_key")
        actor = f"key:{key_id}"
        if known.is_revoked:
            raise UnauthorizedError("This API key was revoked.", ASK_FOR_ANOTHER, reason="key_revoked", actor=actor)
        if known.has_expired:
            raise UnauthorizedError("This API key has expired.", ASK_FOR_ANOTHER, reason="key_expired", actor=actor)
        if known.is_used_again:
            self._record.used(key_id)
        return Caller(actor, (known.role,), known.datasets)

    def _of_token(self, tokens: Tokens, token: str) -> Caller:
        bearer = tokens.bearer(token)
        caller = Caller(f"user:{bearer.user_id}", bearer.roles, bearer.datasets)
        self._users.see(bearer.user_id, bearer.name, Stamp(datetime.now(UTC), caller.actor, str(uuid4())))
        return caller


def _digest(credential: str) -> bytes:
    return hashlib.sha256(credential.encode("utf-8", "surrogateescape")).digest()


def _refused(message: str, reason: str) -> UnauthorizedError:
    return UnauthorizedError(message, SHOW_IT, reason=reason)


async def _in(threads: ThreadPoolExecutor, question: Callable[[], Answer]) -> Answer:
    context = contextvars.copy_context()  # the trace of the request
    return await asyncio.get_running_loop().run_in_executor(threads, partial(context.run, question))
