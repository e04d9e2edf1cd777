"""Tokens of an identity provider (OpenID Connect): a JWT says who somebody is, and which roles that gives here.

Rules:
1. A token counts if it is signed by a key that the provider publishes, with one of `ALGORITHMS` (none of which has a
   secret to share), was issued by the provider for us, and holds now. Clocks may differ by `LEEWAY_SECONDS`.
   Source: RFC 8725, https://openid.net/specs/openid-connect-core-1_0.html#IDTokenValidation.
2. The provider's keys are kept for `KEYS_SECONDS`, and no longer: then one that the provider has taken back is not
   known any more. A token that names an unknown one makes us ask again, at most once in `ASK_AGAIN_SECONDS`, so that
   nobody can make us ask all the time.
3. A provider that is away, or whose answer is none, is not the caller's mistake: 503, and not asked again for
   `SILENT_SECONDS`. Tokens by keys that were fetched less than `KEYS_SECONDS` ago go on to count meanwhile.
4. Roles are the words in a claim that are roles here; other words mean nothing. If a claim for datasets is set up, a
   token without it is for no dataset; `*` is all of them.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httpx2
import jwt

from api.errors import UnauthorizedError
from ledger.domain.access import Role, known_roles
from ledger.domain.user import user_id_of
from ledger.errors import PartUnavailableError
from ledger.settings import Settings, is_safe_url

log = logging.getLogger(__name__)

ALGORITHMS = ("RS256", "ES256", "EdDSA")
REQUIRED = ["exp", "iat", "iss", "aud", "sub"]
LEEWAY_SECONDS = 30
KEYS_SECONDS = 600
ASK_AGAIN_SECONDS = 30
SILENT_SECONDS = 5.0
ANSWER_SECONDS_MAX = 5
TOKEN_CHARACTERS_MAX = 16_384
NAME_CHARACTERS_MAX = 200
DISCOVERY_PATH = "/.well-known/openid-configuration"
ALL_DATASETS = "*"
# How it shows that a provider does not answer, or with what is no answer: nested too deep, say.
NO_ANSWER = (
    jwt.PyJWKClientConnectionError,
    jwt.PyJWKSetError,
    httpx2.HTTPError,
    OSError,
    ValueError,
    RecursionError,
)


@dataclass(frozen=True)
class Bearer:
    """Who a token is about."""

    user_id: str
    name: str
    roles: tuple[Role, ...]
    datasets: frozenset[str] | None


class ProviderKeys(jwt.PyJWKClient):
    """The keys that a provider publishes."""

    def fetch_data(self) -> Any:
        """What it answers; told as an answer that did not come if it is none, and not as one without the key."""
        try:
            return super().fetch_data()
        except jwt.PyJWKClientError as error:
            raise jwt.PyJWKClientConnectionError(str(error)) from error


class Tokens:
    """Reads the tokens of one provider. For settings with `oidc_issuer`."""

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        assert settings.oidc_issuer is not None
        assert settings.oidc_audience is not None
        self._issuer = settings.oidc_issuer
        self._audience = settings.oidc_audience
        self._keys_url = settings.oidc_jwks_url
        self._role_claim = settings.oidc_role_claim
        self._datasets_claim = settings.oidc_datasets_claim
        self._clock = clock
        self._lock = threading.Lock()
        self._provider: ProviderKeys | None = None
        self._silent_until_seconds = 0.0

    def bearer(self, token: str) -> Bearer:
        """Who the token is about.

        Raises:
            UnauthorizedError: it does not count.
            PartUnavailableError: the provider does not tell its keys, so nobody can say.
        """
        if len(token) > TOKEN_CHARACTERS_MAX:
            raise _refused("it is too long")
        try:
            header = jwt.get_unverified_header(token)
            if header.get("alg") not in ALGORITHMS:
                raise _refused(f"it has to be signed by one of {', '.join(ALGORITHMS)}")
            claims = jwt.decode(
                token,
                self._key(header.get("kid")),
                algorithms=ALGORITHMS,
                audience=self._audience,
                issuer=self._issuer,
                leeway=LEEWAY_SECONDS,
                options={"require": REQUIRED, "enforce_minimum_key_length": True},
            )
        except jwt.ExpiredSignatureError:
            raise UnauthorizedError("The token has expired.", "Sign in again.", reason="token_expired") from None
        except (jwt.InvalidTokenError, jwt.InvalidKeyError) as error:
            raise _refused(str(error)) from None
        return self._bearer_of(claims)

    def _bearer_of(self, claims: Mapping[str, Any]) -> Bearer:
        user_id = user_id_of(self._issuer, str(claims["sub"]))
        roles = known_roles(_words(_claim(claims, self._role_claim)))
        if self._datasets_claim is None:
            return Bearer(user_id, _name(claims), roles, None)
        datasets = frozenset(_words(_claim(claims, self._datasets_claim)))
        return Bearer(user_id, _name(claims), roles, None if ALL_DATASETS in datasets else datasets)

    def _key(self, key_id: Any) -> jwt.PyJWK:
        """The provider's key of that id."""
        if not isinstance(key_id, str):
            raise _refused("it does not name the key that signed it")
        provider = self._provider
        known = provider and provider.jwk_set_cache and provider.jwk_set_cache.get()
        for key in known or ():
            if key.key_id == key_id and key.public_key_use in ("sig", None):
                return key
        with self._lock:
            if self._clock() < self._silent_until_seconds:
                raise _away(self._issuer, "it did not answer just now")
            try:
                self._provider = self._provider or self._discovered()
                return self._provider.get_signing_key(key_id)
            except NO_ANSWER as error:
                self._silent_until_seconds = self._clock() + SILENT_SECONDS
                log.warning("the identity provider: %s", error, extra={"action": "identity_provider_unavailable"})
                raise _away(self._issuer, type(error).__name__) from error
            except jwt.PyJWKClientError:
                raise _refused("the provider does not publish the key that signed it") from None

    def _discovered(self) -> ProviderKeys:
        return ProviderKeys(
            self._keys_url or _keys_url_of(self._issuer),
            lifespan=KEYS_SECONDS,
            timeout=ANSWER_SECONDS_MAX,
            cooldown_duration=ASK_AGAIN_SECONDS,
        )


def _keys_url_of(issuer: str) -> str:
    """Where a provider says that its keys are: https://openid.net/specs/openid-connect-discovery-1_0.html."""
    answer = httpx2.get(issuer.rstrip("/") + DISCOVERY_PATH, timeout=ANSWER_SECONDS_MAX, follow_redirects=False)
    answer.raise_for_status()
    told = answer.json()
    if not isinstance(told, dict) or told.get("issuer") != issuer:
        raise ValueError("it calls itself by another name than oidc_issuer")
    url = told.get("jwks_uri")
    if not isinstance(url, str) or not is_safe_url(url):
        raise ValueError("it names no address of its keys that is safe")
    return url


def _claim(claims: Mapping[str, Any], name: str) -> Any:
    """A claim by its name, or by the names that lead to it (`realm_access.roles`)."""
    if name in claims:
        return claims[name]
    found: Any = claims
    for part in name.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found


def _words(value: Any) -> list[str]:
    """A claim that is a list of texts, or a text with blanks or commas between."""
    if isinstance(value, str):
        return value.replace(",", " ").split()
    return [word for word in value if isinstance(word, str)] if isinstance(value, list) else []


def _name(claims: Mapping[str, Any]) -> str:
    """What the token says of the person: the name, and the address of e-mail."""
    name, email = (_shown(claims.get("name") or claims.get("preferred_username")), _shown(claims.get("email")))
    return f"{name} <{email}>" if name and email else name or email


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) else ""
    return "".join(character for character in text if character.isprintable()).strip()[:NAME_CHARACTERS_MAX]


def _refused(why: str) -> UnauthorizedError:
    return UnauthorizedError(f"The token does not count: {why[:200]}.", "Sign in again.", reason="token_invalid")


def _away(issuer: str, why: str) -> PartUnavailableError:
    return PartUnavailableError(
        f"The identity provider {urlsplit(issuer).hostname} does not tell its keys ({why}).",
        "Try again when it is back. API keys go on to work.",
    )
