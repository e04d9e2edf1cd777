"""Tokens of an identity provider, which is a real one in so far as it publishes keys over HTTP and signs with them."""

from __future__ import annotations

import base64
import hmac
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx2
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from api.errors import UnauthorizedError
from api.tokens import Tokens
from ledger.domain.access import Role
from ledger.domain.user import user_id_of
from ledger.errors import PartUnavailableError
from ledger.settings import Settings
from tests.integration.doors import Doors, running_doors
from tests.integration.place import wait_until

AUDIENCE = "ledger"
KEYS: dict[str, Any] = {
    "RS256": rsa.generate_private_key(public_exponent=65537, key_size=2048),
    "ES256": ec.generate_private_key(ec.SECP256R1()),
    "EdDSA": ed25519.Ed25519PrivateKey.generate(),
}
TO_JWK = {"RS256": RSAAlgorithm.to_jwk, "ES256": ECAlgorithm.to_jwk, "EdDSA": OKPAlgorithm.to_jwk}
SECRET = {"kty": "oct", "kid": "secret", "k": "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LXNlY3JldA"}


def published(algorithm: str, key_id: str | None = None) -> dict[str, Any]:
    key = json.loads(TO_JWK[algorithm](KEYS[algorithm].public_key()))
    return {**key, "kid": key_id or algorithm, "use": "sig"}


@dataclass
class Provider:
    """An identity provider. `keys` are those that it publishes; `asked` are the paths that it was asked for."""

    issuer: str = ""
    keys: list[dict[str, Any]] = field(default_factory=lambda: [*map(published, KEYS), SECRET])
    asked: list[str] = field(default_factory=list)
    is_broken: bool = False

    def token(self, algorithm: str = "RS256", *, kid: str | None = None, key: Any = None, **claims: Any) -> str:
        """A token that counts, but for what is given."""
        now = int(time.time())
        usual = {"iss": self.issuer, "aud": AUDIENCE, "sub": "4711", "iat": now, "exp": now + 300, "roles": ["viewer"]}
        told = {name: value for name, value in {**usual, **claims}.items() if value is not None}
        return jwt.encode(told, key or KEYS[algorithm], algorithm, headers={"kid": kid or algorithm})

    def answer(self, path: str) -> Any:
        self.asked.append(path)
        if path == "/keys":
            return {"keys": self.keys}
        return {"issuer": self.issuer, "jwks_uri": f"{self.issuer}/keys"}


@contextmanager
def running_provider() -> Iterator[Provider]:
    provider = Provider()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer = "<html>" if provider.is_broken else provider.answer(self.path)
            body = (answer if isinstance(answer, str) else json.dumps(answer)).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        provider.issuer = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield provider
        server.shutdown()


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    with running_provider() as provider:
        yield provider


@pytest.fixture(scope="module")
def doors(provider: Provider) -> Iterator[Doors]:
    settings = {
        "LEDGER_OIDC_ISSUER": provider.issuer,
        "LEDGER_OIDC_AUDIENCE": AUDIENCE,
        "LEDGER_OIDC_JWKS_URL": "",
        "LEDGER_OIDC_DATASETS_CLAIM": "datasets",
    }
    with running_doors(settings, datasets=("payments", "salaries")) as doors:
        yield doors


def tokens_of(provider: Provider, clock: Any = time.monotonic, **settings: Any) -> Tokens:
    return Tokens(Settings(oidc_issuer=provider.issuer, oidc_audience=AUDIENCE, **settings), clock)


def whoami(doors: Doors, token: str) -> httpx2.Response:
    with doors.http(token) as http:
        return http.get("/api/v1/whoami")


@pytest.mark.parametrize("algorithm", sorted(KEYS))
def test_a_token_of_the_provider_lets_in_with_its_roles(doors: Doors, provider: Provider, algorithm: str) -> None:
    token = provider.token(algorithm, roles=["offline_access", "operator", "auditor"], datasets=["payments"])
    answer = whoami(doors, token)
    assert answer.status_code == 200, answer.text
    told = answer.json()
    assert told["actor"] == f"user:{user_id_of(provider.issuer, '4711')}"
    assert (told["roles"], told["datasets"]) == (["operator", "auditor"], ["payments"])
    assert {"upload", "read_audit"} <= set(told["permissions"])


NOW = int(time.time())
DAY_SECONDS = 86_400  # more than passes between this and the last test of a long run
BAD: dict[str, dict[str, Any]] = {
    "expired": {"exp": NOW - 60},
    "not yet": {"nbf": NOW + DAY_SECONDS},
    "issued in the future": {"iat": NOW + DAY_SECONDS},
    "another audience": {"aud": "payroll"},
    "another issuer": {"iss": "http://127.0.0.1:1"},
    "no expiry": {"exp": None},
    "no audience": {"aud": None},
    "no issuer": {"iss": None},
    "no subject": {"sub": None},
    "no time of issue": {"iat": None},
    "a subject that is no text": {"sub": 4711},
    "an unknown key": {"kid": "nobody's"},
    "another key's name": {"kid": "ES256"},
    "another's signature": {"key": rsa.generate_private_key(public_exponent=65537, key_size=2048)},
}


@pytest.mark.parametrize("wrong", sorted(BAD))
def test_a_token_that_is_wrong_in_one_thing_is_nobodys(doors: Doors, provider: Provider, wrong: str) -> None:
    answer = whoami(doors, provider.token(**BAD[wrong]))
    assert answer.status_code == 401, answer.text
    assert answer.headers["www-authenticate"] == "Bearer"


def test_no_algorithm_with_a_shared_secret_and_none_without_a_signature_counts(
    doors: Doors, provider: Provider
) -> None:
    claims = jwt.decode(provider.token(roles=["admin"]), options={"verify_signature": False})
    forged = [
        jwt.encode(claims, None, "none", headers={"kid": "RS256"}),
        jwt.encode(claims, "secret-secret-secret-secret-secret", "HS256", headers={"kid": "secret"}),
        signed_with_what_is_public(claims),
        jwt.encode(claims, KEYS["RS256"], "RS512", headers={"kid": "RS256"}),
        jwt.encode(claims, KEYS["RS256"], "PS256", headers={"kid": "RS256"}),
        provider.token(roles=["admin"]).rpartition(".")[0] + ".",
        "..",
        "a.b.c",
        "e30.e30.e30",
    ]
    for token in forged:
        answer = whoami(doors, token)
        assert answer.status_code == 401, (token, answer.text)


def signed_with_what_is_public(claims: dict[str, Any]) -> str:
    """The old trick: the provider's public key as if it were a secret that is shared."""
    key = KEYS["RS256"].public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    parts = ({"alg": "HS256", "typ": "JWT", "kid": "RS256"}, claims)
    text = ".".join(in_base64(json.dumps(part).encode()) for part in parts)
    return f"{text}.{in_base64(hmac.digest(key, text.encode(), 'sha256'))}"


def in_base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def test_a_token_that_names_keys_of_its_own_is_nobodys(doors: Doors, provider: Provider) -> None:
    thief = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    claims = jwt.decode(provider.token(roles=["admin"]), options={"verify_signature": False})
    own = {**json.loads(RSAAlgorithm.to_jwk(thief.public_key())), "kid": "own"}
    headers = {"kid": "own", "jwk": own, "jku": "http://127.0.0.1:1/keys", "x5u": "http://127.0.0.1:1"}
    assert whoami(doors, jwt.encode(claims, thief, "RS256", headers=headers)).status_code == 401


def test_without_a_role_one_may_only_ask_who_one_is(doors: Doors, provider: Provider) -> None:
    with doors.http(provider.token(roles=["bookkeeper"], datasets=["*"])) as http:
        told = http.get("/api/v1/whoami").json()
        assert (told["roles"], told["permissions"]) == ([], [])
        answer = http.get("/api/v1/jobs")
    assert (answer.status_code, "no role" in answer.json()["detail"]) == (403, True)


@pytest.mark.parametrize(
    ("told", "seen"),
    [
        (["payments"], ["payments"]),
        ("payments other", ["payments"]),
        (["*"], ["payments", "salaries"]),
        (None, []),
        (7, []),
    ],
)
def test_a_token_without_the_claim_for_datasets_is_for_none(
    doors: Doors, provider: Provider, told: Any, seen: list[str]
) -> None:
    with doors.http(provider.token(datasets=told)) as http:
        assert http.get("/api/v1/datasets").json() == {"datasets": seen}


def test_who_somebody_is_stands_in_one_event_and_nowhere_else(doors: Doors, provider: Provider) -> None:
    anna = {"sub": "anna", "name": "Anna März\n", "email": "anna@example.com", "roles": ["viewer"], "datasets": ["*"]}
    actor = f"user:{user_id_of(provider.issuer, 'anna')}"
    with doors.http(provider.token(**anna)) as http:
        for _ in range(3):
            assert http.get("/api/v1/whoami").json()["name"] == "Anna März <anna@example.com>"
        assert http.post(f"/api/v1/jobs/{doors.jobs['payments']}/cancel").status_code == 403
    whoami(doors, provider.token(**{**anna, "name": "Anna Mai"}))
    whoami(doors, provider.token(**anna))
    seen = [each.event for each in doors.ledger.events_after(0, 10_000) if each.topic == "user.seen"]
    names = [event.name for event in seen if event.actor == actor]
    assert names == ["Anna März <anna@example.com>", "Anna Mai <anna@example.com>"]
    wait_until(lambda: doors.denials(actor=actor), "the refusal is not on record")
    stored = "SELECT DISTINCT topic FROM ledger.stored_events WHERE convert_from(state, 'UTF8') ~ 'Anna|example.com'"
    assert doors.query(stored) == [], "but sealed, for whom the key of the person is there"
    assert "Anna" not in "".join(path.read_text(errors="replace") for path in doors.home.logs.glob("*.log"))


def test_the_provider_is_asked_once_for_many_tokens_and_seldom_for_unknown_keys() -> None:
    with running_provider() as provider:
        tokens = tokens_of(provider)
        for number in range(20):
            assert tokens.bearer(provider.token(sub=str(number))).roles == (Role.VIEWER,)
        assert provider.asked == ["/.well-known/openid-configuration", "/keys"]
        for number in range(20):
            with pytest.raises(UnauthorizedError, match="does not publish the key"):
                tokens.bearer(provider.token(kid=f"unknown {number}"))
        assert provider.asked.count("/keys") == 1


def test_a_new_key_of_the_provider_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.tokens.ASK_AGAIN_SECONDS", 0)
    with running_provider() as provider:
        tokens = tokens_of(provider)
        tokens.bearer(provider.token())
        provider.keys.append(published("ES256", "new"))
        assert tokens.bearer(provider.token("ES256", kid="new")).roles == (Role.VIEWER,)


@pytest.mark.parametrize("how", ["away", "broken"])
def test_a_provider_that_is_away_is_nobodys_mistake_and_known_keys_go_on_to_count(how: str) -> None:
    seconds = [0.0]
    with running_provider() as provider:
        known, unknown = tokens_of(provider, lambda: seconds[0]), tokens_of(provider, lambda: seconds[0])
        token, other = provider.token(), provider.token("ES256", kid="new")
        known.bearer(token)
        provider.is_broken = how == "broken"
        if how == "broken":
            check_away(unknown, token)
            provider.is_broken = False
            asked = len(provider.asked)
            check_away(unknown, token)
            assert len(provider.asked) == asked, "it is asked again at once"
            seconds[0] = 6.0
            assert unknown.bearer(token).roles == (Role.VIEWER,)
    check_away(tokens_of(provider), token)
    assert known.bearer(token).roles == (Role.VIEWER,)
    with pytest.raises(UnauthorizedError):
        known.bearer(other)


NO_ANSWERS = ["[]", "7", "null", '"keys"', '{"keys": 7}', '{"keys": [7]}', '{"keys": [{"kty": []}]}', "[" * 100_000]


@pytest.mark.parametrize("place", ["/.well-known/openid-configuration", "/keys"])
@pytest.mark.parametrize("answer", NO_ANSWERS, ids=lambda answer: answer[:16])
def test_an_answer_that_is_none_is_told_as_a_provider_that_is_away(answer: str, place: str) -> None:
    with running_provider() as provider:
        token, usual = provider.token(), provider.answer
        provider.answer = lambda path: answer if path == place else usual(path)  # type: ignore[method-assign]
        tokens = tokens_of(provider)
        check_away(tokens, token)
        provider.answer = usual  # type: ignore[method-assign]
        check_away(tokens, token)
        assert provider.asked.count(place) == 0, "it is asked again at once"


def test_keys_that_are_older_than_they_may_be_count_no_more_while_the_provider_is_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("api.tokens.KEYS_SECONDS", 1e-9)
    with running_provider() as provider:
        tokens, token = tokens_of(provider), provider.token()
        tokens.bearer(token)
    check_away(tokens, token)


def check_away(tokens: Tokens, token: str) -> None:
    with pytest.raises(PartUnavailableError, match="does not tell its keys"):
        tokens.bearer(token)


def test_a_provider_that_calls_itself_otherwise_or_sends_us_elsewhere_is_not_believed() -> None:
    for told in (
        {"issuer": "https://other"},
        {"jwks_uri": "http://example.com/keys"},
        {"jwks_uri": "file:///etc/passwd"},
    ):
        with running_provider() as provider:
            token, usual = provider.token(), provider.answer("/")
            provider.answer = lambda path, answer={**usual, **told}: answer  # type: ignore[method-assign]
            check_away(tokens_of(provider), token)


def test_claims_are_found_by_their_name_or_by_a_path() -> None:
    with running_provider() as provider:
        for claim, claims in {
            "realm_access.roles": {"realm_access": {"roles": ["auditor"]}},
            "https://example.com/role": {"https://example.com/role": "auditor"},
            "a.b": {"a.b": "auditor", "a": {"b": "admin"}},
        }.items():
            token = provider.token(**{"roles": ["admin"], **claims})
            assert tokens_of(provider, oidc_role_claim=claim).bearer(token).roles == (Role.AUDITOR,)
        assert tokens_of(provider, oidc_role_claim="a.b.c").bearer(provider.token(a=7)).roles == ()


def test_the_keys_may_be_at_an_address_that_is_given() -> None:
    with running_provider() as provider:
        tokens = tokens_of(provider, oidc_jwks_url=f"{provider.issuer}/keys")
        assert tokens.bearer(provider.token()).datasets is None
        assert provider.asked == ["/keys"]
