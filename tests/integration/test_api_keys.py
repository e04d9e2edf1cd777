"""API keys on real PostgreSQL: given out once, found at each request, closed at once, and restored from the log."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import httpx2
import pytest

from ledger.domain.access import Role
from ledger.errors import ConflictError, NotFoundError
from ledger.keys import (
    KEY,
    create_key,
    key_of,
    keys_that_differ,
    list_keys,
    look_up,
    restore_keys,
    revoke_key,
    write_uses,
)
from tests.integration.doors import ADMIN_KEY, Doors, running_doors
from tests.integration.place import STAMP, wait_until

ROW = "SELECT * FROM ledger.api_keys ORDER BY key_id"
EXPIRE = "UPDATE ledger.api_keys SET expires_at = clock_timestamp() WHERE key_id = :key_id RETURNING 1"


@pytest.fixture(scope="module")
def doors() -> Iterator[Doors]:
    with running_doors() as doors:
        yield doors


@pytest.fixture
def admin(doors: Doors) -> Iterator[httpx2.Client]:
    with doors.http(ADMIN_KEY) as http:
        yield http


def whoami(doors: Doors, *keys: str, scheme: str = "Bearer") -> httpx2.Response:
    with doors.http(*keys, scheme=scheme) as http:
        return http.get("/api/v1/whoami")


def test_a_key_is_told_once_and_kept_nowhere(doors: Doors, admin: httpx2.Client) -> None:
    created = admin.post("/api/v1/keys", json={"name": "payroll", "role": "uploader", "datasets": ["payments"]})
    assert (created.status_code, created.headers["cache-control"]) == (201, "no-store")
    answer = created.json()
    shown = KEY.fullmatch(answer["key"])
    assert shown is not None
    assert shown["key_id"] == answer["key_id"]
    [listed] = [key for key in admin.get("/api/v1/keys").json()["keys"] if key["key_id"] == answer["key_id"]]
    assert listed == {name: value for name, value in answer.items() if name != "key"}
    assert (listed["name"], listed["role"], listed["datasets"]) == ("payroll", "uploader", ["payments"])
    assert (listed["status"], listed["created_by"], listed["last_used_at"]) == ("active", "admin", None)
    held = "SELECT count(*) FROM ledger.stored_events WHERE position(convert_to(:secret, 'UTF8') IN state) > 0"
    assert doors.query(held, secret=shown["secret"]) == [(0,)]
    assert shown["secret"] not in str(doors.query(ROW))
    logs = "".join(path.read_text(errors="replace") for path in doors.home.logs.glob("*.log"))
    assert shown["secret"] not in logs


def test_whose_a_key_is_stands_in_one_event_and_nowhere_else(doors: Doors, admin: httpx2.Client) -> None:
    name = "Anna März of payroll"
    created = admin.post("/api/v1/keys", json={"name": name, "role": "viewer"}).json()
    whoami(doors, created["key"])
    admin.post(f"/api/v1/keys/{created['key_id']}/revoke", json={"reason": "left"})
    whoami(doors, created["key"])
    wait_until(lambda: doors.denials(actor=f"key:{created['key_id']}"), "nothing is on record")
    told = [each for each in doors.ledger.events_after(0, 10_000) if name in str(vars(each.event))]
    assert [each.topic for each in told] == ["key.created"]
    held = "SELECT count(*) FROM ledger.stored_events WHERE position(convert_to('Anna', 'UTF8') IN state) > 0"
    assert doors.query(held) == [(0,)], "it is sealed"
    assert name not in str(doors.query(ROW))
    assert "Anna" not in "".join(path.read_text(errors="replace") for path in doors.home.logs.glob("*.log"))


def test_a_key_acts_under_its_pseudonym(doors: Doors) -> None:
    key = doors.key(Role.OPERATOR)
    with doors.http(key.text) as http:
        contract = {"columns": [{"name": "id", "type": "bigint"}]}
        assert http.put("/api/v1/datasets/by_key", json=contract).status_code == 200
    [actor] = {each.event.actor for each in doors.ledger.events_after(0, 10_000) if each.topic == "dataset.registered"}
    assert actor == f"key:{key.key.key_id}"


def test_who_one_is(doors: Doors) -> None:
    key = doors.key(Role.AUDITOR, "payments")
    assert whoami(doors, key.text).json() == {
        "actor": f"key:{key.key.key_id}",
        "name": "a test's auditor",
        "roles": ["auditor"],
        "permissions": ["read_audit", "read_data", "read_jobs", "verify"],
        "datasets": ["payments"],
    }
    admin = whoami(doors, ADMIN_KEY).json()
    assert (admin["actor"], admin["name"], admin["roles"], admin["datasets"]) == ("admin", None, ["admin"], None)


def test_a_revoked_key_opens_no_door_from_the_next_request_on(doors: Doors, admin: httpx2.Client) -> None:
    key = doors.key(Role.ADMIN)
    with doors.http(key.text) as http:  # over one connection, that was let in before
        assert http.get("/api/v1/keys").status_code == 200
        path = f"/api/v1/keys/{key.key.key_id}/revoke"
        assert admin.post(path, json={"reason": "stolen"}).json()["status"] == "revoked"
        answer = http.get("/api/v1/keys")
        assert (answer.status_code, "revoked" in answer.json()["detail"]) == (401, True)
    assert admin.post(path, json={"reason": "again"}).status_code == 409
    [listed] = [each for each in admin.get("/api/v1/keys").json()["keys"] if each["key_id"] == key.key.key_id]
    assert (listed["status"], listed["revoked_by"], listed["revoked_because"]) == ("revoked", "admin", "stolen")


def test_an_expired_key_opens_no_door(doors: Doors) -> None:
    key = doors.key(Role.VIEWER, expires_in=timedelta(days=1))
    assert whoami(doors, key.text).status_code == 200
    doors.query(EXPIRE, key_id=key.key.key_id)
    answer = whoami(doors, key.text)
    assert (answer.status_code, "expired" in answer.json()["detail"]) == (401, True)


@pytest.mark.parametrize("change", ["id", "secret", "last letter", "longer", "shorter", "case", "empty secret"])
def test_a_key_that_is_not_quite_right_is_nobody(doors: Doors, change: str) -> None:
    key, other = doors.key(Role.ADMIN), doors.key(Role.ADMIN)
    _, key_id, secret = key.text.split("_", 2)
    _, other_id, other_secret = other.text.split("_", 2)
    changed = {
        "id": f"lk_{other_id}_{secret}",
        "secret": f"lk_{key_id}_{other_secret}",
        "last letter": key.text[:-1] + ("A" if key.text[-1] != "A" else "B"),
        "longer": key.text + "A",
        "shorter": key.text[:-1],
        "case": f"lk_{key_id}_{secret.swapcase()}",
        "empty secret": f"lk_{key_id}_",
    }[change]
    answer = whoami(doors, changed)
    assert (answer.status_code, answer.json()["detail"]) == (401, "This needs a valid API key.")


def test_one_credential_is_shown_and_under_its_scheme(doors: Doors) -> None:
    key = doors.key(Role.VIEWER).text
    assert whoami(doors, key, scheme="bearer").status_code == 200
    assert whoami(doors, key, scheme="BEARER ").status_code == 200
    assert whoami(doors, key, scheme="Basic").status_code == 401
    for second in (ADMIN_KEY, key):
        answer = whoami(doors, key, second)
        assert (answer.status_code, "more than one" in answer.json()["detail"]) == (401, True)
    assert whoami(doors).status_code == 401
    assert whoami(doors, key, scheme="Bearer Bearer").status_code == 401


def test_the_last_use_is_noted_once_in_a_while_and_not_by_who_is_refused(doors: Doors) -> None:
    key = doors.key(Role.VIEWER)

    def used() -> Any:
        [(at,)] = doors.query("SELECT last_used_at FROM ledger.api_keys WHERE key_id = :id", id=key.key.key_id)
        return at

    whoami(doors, key.text[:-4] + "AAAA")
    whoami(doors, key.text)
    first = wait_until(used, "nobody notes that the key is used")
    whoami(doors, key.text)
    known = look_up(doors.ledger, key.key.key_id)
    assert known is not None
    assert not known.is_used_again
    assert used() == first
    doors.query(
        "UPDATE ledger.api_keys SET last_used_at = last_used_at - interval '61 seconds' WHERE key_id = :id RETURNING 1",
        id=key.key.key_id,
    )
    whoami(doors, key.text)
    wait_until(lambda: used() >= first, "a later use is not noted")


def test_the_rows_are_restored_from_the_log(doors: Doors) -> None:
    active, revoked = doors.key(Role.ADMIN, expires_in=timedelta(days=9)), doors.key(Role.VIEWER, "payments")
    revoke_key(doors.ledger, revoked.key.key_id, STAMP, reason="replaced")
    with doors.ledger.transaction() as session:
        write_uses(session, [active.key.key_id])
    restore_keys(doors.ledger)  # another test has made a key expire
    before = doors.query(ROW)
    doors.query("UPDATE ledger.api_keys SET revoked_at = NULL, role = 'admin', datasets = NULL RETURNING 1")
    doors.query(
        "INSERT INTO ledger.api_keys (key_id, role, secret_sha256)"
        " SELECT 'ffffffffffff', 'admin', secret_sha256 FROM ledger.api_keys LIMIT 1 RETURNING 1"
    )
    restore_keys(doors.ledger)
    assert doors.query(ROW) == [row for row in before if row[0] != "ffffffffffff"]
    doors.query("WITH gone AS (DELETE FROM ledger.api_keys RETURNING 1) SELECT count(*) FROM gone")
    assert restore_keys(doors.ledger) == len(before)
    assert [row[:-1] for row in doors.query(ROW)] == [row[:-1] for row in before]
    answer = whoami(doors, revoked.text)
    assert answer.status_code == 401
    assert whoami(doors, active.text).status_code == 200


def test_of_two_who_revoke_a_key_at_once_one_does(doors: Doors) -> None:
    key = doors.key(Role.VIEWER)

    def revoke(number: int) -> bool:
        try:
            revoke_key(doors.ledger, key.key.key_id, STAMP, reason=f"reason {number}")
        except ConflictError:
            return False
        return True

    with ThreadPoolExecutor(4) as threads:
        assert sorted(threads.map(revoke, range(4))) == [False, False, False, True]
    assert key_of(doors.ledger, key.key.key_id).version == 2


def test_what_cannot_be_a_key_is_refused_with_what_to_do(admin: httpx2.Client) -> None:
    for body in (
        {"name": "", "role": "viewer"},
        {"name": "x", "role": "root"},
        {"name": "x"},
        {"name": "x", "role": "viewer", "datasets": []},
        {"name": "x", "role": "viewer", "datasets": ["no dataset"]},
        {"name": "x", "role": "viewer", "expires_in_seconds": 0},
    ):
        answer = admin.post("/api/v1/keys", json=body)
        assert answer.status_code == 422, body
        assert answer.json()["remedy"]
    assert admin.post("/api/v1/keys/000000000000/revoke", json={"reason": "x"}).status_code == 404


def test_an_unknown_key_is_not_found(doors: Doors) -> None:
    with pytest.raises(NotFoundError, match="no key"):
        key_of(doors.ledger, "0" * 12)
    assert look_up(doors.ledger, "0" * 12) is None
    assert {listed.key.key_id for listed in list_keys(doors.ledger)} == {row[0] for row in doors.query(ROW)}


def test_the_list_is_what_the_log_says_whatever_was_done_to_the_rows(doors: Doors, admin: httpx2.Client) -> None:
    lost, changed = doors.key(Role.VIEWER).key.key_id, doors.key(Role.VIEWER).key.key_id
    expiring = create_key(doors.ledger, STAMP, name="x", role=Role.VIEWER, datasets=None, expires_in=timedelta(0))
    before = admin.get("/api/v1/keys").json()["keys"]
    assert [each["status"] for each in before[-3:]] == ["active", "active", "expired"]
    doors.query("DELETE FROM ledger.api_keys WHERE key_id = :key_id RETURNING 1", key_id=lost)
    doors.query(EXPIRE, key_id=changed)
    doors.query(
        "INSERT INTO ledger.api_keys SELECT 'nobodys', role, datasets, expires_at, secret_sha256 FROM ledger.api_keys"
        " WHERE key_id = :key_id RETURNING 1",
        key_id=expiring.key.key_id,
    )
    assert admin.get("/api/v1/keys").json()["keys"] == before
    assert keys_that_differ(doors.ledger) == sorted([lost, changed, "nobodys"])
    restore_keys(doors.ledger)
    assert keys_that_differ(doors.ledger) == []


def test_the_events_of_a_key_are_no_jobs_events(doors: Doors, admin: httpx2.Client) -> None:
    key = doors.key(Role.VIEWER)
    for path in (f"/task/{key.key.id}", f"/api/v1/jobs/{key.key.id}", f"/api/v1/jobs/{key.key.id}/events"):
        assert admin.get(path).status_code == 404, path
