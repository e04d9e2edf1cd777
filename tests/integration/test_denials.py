"""Refused attempts are on record: who, what, why and how often; without the key, the address, or a flood."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from api.access_record import GATHER_SECONDS, AccessRecord, Attempt
from ledger.application import Ledger
from ledger.domain.access import Role
from ledger.keys import revoke_key
from ledger.settings import Settings
from tests.faults.proxy import FaultProxy
from tests.integration.doors import Doors, running_doors
from tests.integration.place import STAMP, wait_until

OWN, FOREIGN = "payments", "salaries"


@pytest.fixture(scope="module")
def doors() -> Iterator[Doors]:
    with running_doors(datasets=(OWN, FOREIGN)) as doors:
        yield doors


def denial(doors: Doors, **wanted: Any) -> Any:
    """The first denial of a kind, once it is on record."""
    return wait_until(lambda: doors.denials(**wanted), f"no denial on record: {wanted}")[0].event


def test_what_a_role_does_not_allow_is_on_record(doors: Doors) -> None:
    key = doors.key(Role.VIEWER)
    with doors.http(key.text) as http:
        http.post(f"/api/v1/jobs/{doors.jobs[OWN]}/cancel")
    found = denial(doors, actor=f"key:{key.key.key_id}")
    assert (found.method, found.route, found.permission) == ("POST", "/api/v1/jobs/{job_id}/cancel", "operate_jobs")
    assert (found.reason, found.count, found.dataset) == ("permission_missing", 1, None)


def test_a_foreign_dataset_is_on_record_by_its_name(doors: Doors) -> None:
    key = doors.key(Role.UPLOADER, OWN)
    with doors.http(key.text) as http:
        assert http.get(f"/task/{doors.jobs[FOREIGN]}").status_code == 404
        assert http.put(f"/api/v1/files/{FOREIGN}.csv", content=b"id\n1\n").status_code == 403
        assert http.get("/api/v1/keys").status_code == 403
    actor = f"key:{key.key.key_id}"
    assert denial(doors, actor=actor, route="/task/{task_id}").dataset == FOREIGN
    assert denial(doors, actor=actor, route="/api/v1/files/{name:path}").dataset == FOREIGN
    assert denial(doors, actor=actor, route="/api/v1/keys").reason == "permission_missing"


def test_a_wrong_key_is_nobodys_and_is_written_nowhere(doors: Doors) -> None:
    key = doors.key(Role.ADMIN)
    wrong = f"{key.text[:-6]}abcdef"
    with doors.http(wrong) as http:
        http.get("/api/v1/datasets")
    found = denial(doors, route="/api/v1/datasets", reason="wrong_key")
    assert (found.actor, found.permission) == ("anonymous", "read_jobs")
    logs = "".join(path.read_text(errors="replace") for path in doors.home.logs.glob("*.log"))
    stored = str(doors.query("SELECT string_agg(convert_from(state, 'UTF8'), ' ') FROM ledger.stored_events"))
    assert wrong[16:] not in logs + stored
    told = [line for line in logs.splitlines() if '"access_denied"' in line and "wrong_key" in line]
    assert json.loads(told[0])["remote_addresses"] == ["127.0.0.1"]
    assert "127.0.0.1" not in stored


def test_who_shows_the_right_secret_of_a_revoked_key_is_known_by_it(doors: Doors) -> None:
    key = doors.key(Role.ADMIN)
    revoke_key(doors.ledger, key.key.key_id, STAMP, reason="stolen")
    with doors.http(key.text) as http:
        http.get("/api/v1/keys")
    assert denial(doors, actor=f"key:{key.key.key_id}").reason == "key_revoked"


def test_a_path_that_there_is_not_is_on_record_without_its_text(doors: Doors) -> None:
    with doors.http() as http:
        http.get("/no/such/path?with=secrets")
        http.request("PROPFIND", "/livez")
    found = denial(doors, route=None, method="GET", reason="no_credentials")
    assert (found.actor, found.permission) == ("anonymous", None)
    assert denial(doors, route=None, method="*", reason="no_credentials")
    assert "secrets" not in str(
        doors.query("SELECT string_agg(convert_from(state, 'UTF8'), '') FROM ledger.stored_events")
    )


def test_a_flood_is_one_event_and_then_a_number(doors: Doors) -> None:
    key = doors.key(Role.VIEWER)
    began_seconds = time.monotonic()
    with doors.http(key.text) as http:
        for _ in range(60):
            assert http.get("/api/v1/keys").status_code == 403
    actor = f"key:{key.key.key_id}"
    denial(doors, actor=actor)
    written = doors.denials(actor=actor)
    assert len(written) <= 1 + (time.monotonic() - began_seconds) / GATHER_SECONDS, "one at once, then one a minute"
    assert sum(each.event.count for each in written) <= 60


def test_attempts_are_counted_while_the_database_is_away_and_written_when_it_is_back(doors: Doors) -> None:
    [(port,)] = doors.query("SELECT inet_server_port()")
    attempt = Attempt("key:cut-off", "GET", "/task/{task_id}", "read_jobs", None, "permission_missing")
    with FaultProxy(port) as proxy:
        url = doors.ledger.engine.url.set(port=proxy.port).render_as_string(hide_password=False)
        ledger = Ledger(Settings(database_url=url))
        record = AccessRecord(ledger, retry_seconds=0.05)
        record.start()
        proxy.cut()
        for _ in range(1_000):
            record.denied(attempt, "10.0.0.1")
        proxy.heal()
        record.stop()
        ledger.engine.dispose()
    assert sum(each.event.count for each in doors.denials(actor="key:cut-off")) == 1_000


def test_what_is_not_written_when_a_process_stops_is_an_error_in_its_log(caplog: pytest.LogCaptureFixture) -> None:
    record = AccessRecord(Ledger(Settings(database_url="postgresql+psycopg2://ledger@127.0.0.1:1/ledger")))
    record.start()
    attempt = Attempt("key:1", "GET", None, None, None, "permission_missing")
    for _ in range(7):
        record.denied(attempt, "10.0.0.1")
    record.stop()
    [told] = [each for each in caplog.records if each.levelname == "ERROR"]
    assert "not on record: permission_missing, 7 times by key:1" in told.getMessage()
