"""The matrix: every route, and every command that asks the server, for every kind of caller.

What must be answered follows from the two tables (`ledger.domain.access`, `api.permissions`). A route or a command that
is new fails here until it has an example. Whatever is refused must have changed nothing.
"""

from __future__ import annotations

import io
import json
import socket
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import pytest
import typer
from fastapi.routing import iter_route_contexts

from api.app import create_app
from api.cli.client import CommandError, ExitCode
from api.cli.main import cli
from api.permissions import ROUTES, Reach, Routes, names_of
from ledger.domain.access import PERMISSIONS_OF, Permission, Role
from ledger.domain.words import Stage
from ledger.erasures import erase_job
from ledger.keys import revoke_key
from ledger.settings import Settings
from tests.integration.doors import ADMIN_KEY, CONTENT, CONTRACT, Doors, running_doors
from tests.integration.place import STAMP

COMMAND = typer.main.get_command(cli)
YEARS = "/api/v1/archive/years"
OWN, FOREIGN = "payments", "salaries"
DATASETS = (OWN, FOREIGN)
DONE_BEFORE_OR_NOT_UNDERSTOOD = (HTTPStatus.CONFLICT, HTTPStatus.UNPROCESSABLE_ENTITY)
UNAUTHORIZED, FORBIDDEN, NOT_FOUND = HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND


@dataclass(frozen=True)
class World:
    """What there is to ask for."""

    doors: Doors
    operation_id: UUID
    victim: str
    """The id of a key that may be revoked."""
    erasure_id: UUID
    export_id: UUID


@dataclass(frozen=True)
class Who:
    """A kind of caller. `role` is None for who is not let in."""

    name: str
    key: str | None
    role: Role | None
    is_limited: bool = False

    @property
    def asks_about(self) -> tuple[str, ...]:
        """To who is not limited all datasets are the same."""
        return DATASETS if self.is_limited else (FOREIGN,)


Request = dict[str, Any]

# ROUTE → a request to it that is about a dataset, as keyword arguments of the client.
EXAMPLES: dict[str, Callable[[World, str], Request]] = {
    "GET /livez": lambda world, dataset: {"url": "/livez"},
    "GET /readyz": lambda world, dataset: {"url": "/readyz"},
    "GET /api/v1/openapi.json": lambda world, dataset: {"url": "/api/v1/openapi.json"},
    "GET /api/v1/whoami": lambda world, dataset: {"url": "/api/v1/whoami"},
    "POST /uploadfiles/": lambda world, dataset: {
        "url": "/uploadfiles/",
        "files": [("files", (f"{dataset}.csv", CONTENT))],
        "data": {"dataset": dataset},
    },
    "PUT /api/v1/files/{name:path}": lambda world, dataset: {
        "url": "/api/v1/files/some.csv",
        "params": {"dataset": dataset},
        "content": CONTENT,
    },
    "POST /api/v1/preview": lambda world, dataset: {
        "url": "/api/v1/preview",
        "params": {"dataset": dataset, "filename": ""},  # which is refused before a process reads the file
        "content": CONTENT,
    },
    "GET /task/{task_id}": lambda world, dataset: {"url": f"/task/{world.doors.jobs[dataset]}"},
    "GET /api/v1/jobs": lambda world, dataset: {"url": "/api/v1/jobs", "params": {"dataset": dataset}},
    "GET /api/v1/jobs/{job_id}": lambda world, dataset: {"url": job(world, dataset)},
    "GET /api/v1/jobs/{job_id}/events": lambda world, dataset: {"url": job(world, dataset, "/events")},
    "GET /api/v1/jobs/{job_id}/reconciliation": lambda world, dataset: {"url": job(world, dataset, "/reconciliation")},
    "GET /api/v1/jobs/{job_id}/rejects": lambda world, dataset: {"url": job(world, dataset, "/rejects")},
    "GET /api/v1/jobs/{job_id}/rejects.csv": lambda world, dataset: {"url": job(world, dataset, "/rejects.csv")},
    "GET /api/v1/jobs/{job_id}/records/{record}": lambda world, dataset: {"url": job(world, dataset, "/records/2")},
    "GET /api/v1/lineage/{dataset}": lambda world, dataset: {"url": f"/api/v1/lineage/{dataset}", "params": {"id": 1}},
    "POST /api/v1/jobs/{job_id}/retry": lambda world, dataset: {"url": job(world, dataset, "/retry")},
    "POST /api/v1/jobs/{job_id}/cancel": lambda world, dataset: {"url": job(world, dataset, "/cancel")},
    "POST /api/v1/jobs/{job_id}/rejects/waive": lambda world, dataset: {
        "url": job(world, dataset, "/rejects/waive"),
        "json": {"reason": "a test", "records": []},
    },
    "GET /api/v1/datasets": lambda world, dataset: {"url": "/api/v1/datasets"},
    "GET /api/v1/datasets/{name}": lambda world, dataset: {"url": f"/api/v1/datasets/{dataset}"},
    "PUT /api/v1/datasets/{name}": lambda world, dataset: {
        "url": f"/api/v1/datasets/{dataset}",
        "json": CONTRACT.to_dict(),
    },
    "GET /api/v1/views": lambda world, dataset: {"url": "/api/v1/views"},
    "POST /api/v1/jobs/{job_id}/replay": lambda world, dataset: {"url": job(world, dataset, "/replay")},
    "POST /api/v1/audit/verify": lambda world, dataset: {"url": "/api/v1/audit/verify", "json": {"level": "tree"}},
    "GET /api/v1/audit": lambda world, dataset: {"url": "/api/v1/audit", "params": {"limit": 1}},
    "GET /api/v1/audit/{position}": lambda world, dataset: {"url": "/api/v1/audit/1"},
    "GET /api/v1/audit/export": lambda world, dataset: {"url": "/api/v1/audit/export", "params": {"job": str(uuid4())}},
    "GET /api/v1/audit/exports/{export_id}/manifest": lambda world, dataset: {
        "url": f"/api/v1/audit/exports/{world.export_id}/manifest"
    },
    "GET /api/v1/audit/checkpoint": lambda world, dataset: {"url": "/api/v1/audit/checkpoint"},
    "GET /api/v1/audit/verify_proof.py": lambda world, dataset: {"url": "/api/v1/audit/verify_proof.py"},
    "GET /api/v1/jobs/{job_id}/proof": lambda world, dataset: {"url": job(world, dataset, "/proof")},
    "GET /api/v1/events/{position}/proof": lambda world, dataset: {"url": "/api/v1/events/1/proof"},
    "POST /api/v1/erasures": lambda world, dataset: {
        "url": "/api/v1/erasures",
        "json": {"job_id": str(world.doors.jobs[dataset]), "reason": "a test"},
    },
    "GET /api/v1/erasures/{erasure_id}": lambda world, dataset: {"url": f"/api/v1/erasures/{world.erasure_id}"},
    "POST /api/v1/views/{view}/rebuild": lambda world, dataset: {"url": "/api/v1/views/status/rebuild"},
    "GET /api/v1/operations/{operation_id}": lambda world, dataset: {"url": f"/api/v1/operations/{world.operation_id}"},
    "GET /api/v1/archive/years": lambda world, dataset: {"url": YEARS},
    "GET /api/v1/archive/years/{label}": lambda world, dataset: {"url": f"{YEARS}/FY2010-11"},
    "GET /api/v1/archive/years/{label}/closing": lambda world, dataset: {"url": f"{YEARS}/FY2010-11/closing"},
    "GET /api/v1/archive/years/{label}/plan": lambda world, dataset: {"url": f"{YEARS}/FY2010-11/plan"},
    "GET /api/v1/archive/years/{label}/archive": lambda world, dataset: {"url": f"{YEARS}/FY2010-11/archive"},
    "POST /api/v1/archive/years/{label}/archive": lambda world, dataset: {"url": f"{YEARS}/FY2010-11/archive"},
    "POST /api/v1/archive/years/{label}/drop": lambda world, dataset: {
        "url": f"{YEARS}/FY2010-11/drop",
        "json": {"confirm": "FY2010-11"},
    },
    "POST /api/v1/archive/years/{label}/soft-close": lambda world, dataset: {"url": f"{YEARS}/FY2010-11/soft-close"},
    "POST /api/v1/archive/years/{label}/close": lambda world, dataset: {
        "url": f"{YEARS}/FY2011-12/close",
        "json": {"confirm": "FY2011-12"},
    },
    "POST /api/v1/archive/years/{label}/verify": lambda world, dataset: {"url": f"{YEARS}/FY2010-11/verify"},
    "GET /api/v1/archive/years/{label}/post": lambda world, dataset: {
        "url": f"{YEARS}/FY2010-11/post",
        "params": {"job": str(world.doors.jobs[dataset])},
    },
    "POST /api/v1/archive/years/{label}/post": lambda world, dataset: {
        "url": f"{YEARS}/FY2010-11/post",
        "json": {"job": str(world.doors.jobs[dataset]), "reason": "a test"},
    },
    "POST /api/v1/archive/years/{label}/reopen": lambda world, dataset: {
        "url": f"{YEARS}/FY2010-11/reopen",
        "json": {"reason": "a test"},
    },
    "POST /api/v1/archive/years/{label}/approve": lambda world, dataset: {"url": f"{YEARS}/FY2010-11/approve"},
    "POST /api/v1/archive/years/{label}/hold": lambda world, dataset: {
        "url": f"{YEARS}/FY2010-11/hold",
        "json": {"case": str(uuid4())},
    },
    "POST /api/v1/archive/years/{label}/lift-hold": lambda world, dataset: {
        "url": f"{YEARS}/FY2010-11/lift-hold",
        "json": {"case": "none", "reason": "a test"},
    },
    "GET /api/v1/archive/years/{label}/restore": lambda world, dataset: {"url": f"{YEARS}/FY2010-11/restore"},
    "POST /api/v1/archive/years/{label}/restore": lambda world, dataset: {
        "url": f"{YEARS}/FY2010-11/restore",
        "json": {"reason": "a test"},
    },
    "POST /api/v1/archive/years/{label}/release": lambda world, dataset: {"url": f"{YEARS}/FY2010-11/release"},
    "GET /api/v1/archive/years/{label}/locks": lambda world, dataset: {"url": f"{YEARS}/FY2010-11/locks"},
    "GET /api/v1/archive/garbage": lambda world, dataset: {"url": "/api/v1/archive/garbage"},
    "POST /api/v1/keys": lambda world, dataset: {"url": "/api/v1/keys", "json": {"name": "new", "role": "viewer"}},
    "GET /api/v1/keys": lambda world, dataset: {"url": "/api/v1/keys"},
    "POST /api/v1/keys/{key_id}/revoke": lambda world, dataset: {
        "url": f"/api/v1/keys/{world.victim}/revoke",
        "json": {"reason": "a test"},
    },
}

# COMMAND → the route that decides about it, and arguments that are about a dataset.
COMMANDS: dict[str, tuple[str, Callable[[World, str], list[str]]]] = {
    "load": ("PUT /api/v1/files/{name:path}", lambda world, dataset: [file(world), "--dataset", dataset]),
    "jobs list": ("GET /api/v1/jobs", lambda world, dataset: ["--dataset", dataset]),
    "jobs show": ("GET /api/v1/jobs/{job_id}", lambda world, dataset: [str(world.doors.jobs[dataset])]),
    "jobs events": ("GET /api/v1/jobs/{job_id}/events", lambda world, dataset: [str(world.doors.jobs[dataset])]),
    "jobs watch": ("GET /task/{task_id}", lambda world, dataset: [str(world.doors.jobs[dataset])]),
    "jobs retry": ("POST /api/v1/jobs/{job_id}/retry", lambda world, dataset: [str(world.doors.jobs[dataset])]),
    "jobs cancel": ("POST /api/v1/jobs/{job_id}/cancel", lambda world, dataset: [str(world.doors.jobs[dataset])]),
    "jobs rejects": ("GET /api/v1/jobs/{job_id}/rejects", lambda world, dataset: [str(world.doors.jobs[dataset])]),
    "jobs waive": (
        "POST /api/v1/jobs/{job_id}/rejects/waive",
        lambda world, dataset: [str(world.doors.jobs[dataset]), "--reason", "a test"],
    ),
    "jobs reconciliation": (
        "GET /api/v1/jobs/{job_id}/reconciliation",
        lambda world, dataset: [str(world.doors.jobs[dataset])],
    ),
    "jobs row": ("GET /api/v1/lineage/{dataset}", lambda world, dataset: [dataset, "--where", "id=1"]),
    "datasets list": ("GET /api/v1/datasets", lambda world, dataset: []),
    "datasets show": ("GET /api/v1/datasets/{name}", lambda world, dataset: [dataset]),
    "datasets export": ("GET /api/v1/datasets/{name}", lambda world, dataset: [dataset]),
    "datasets infer": ("POST /api/v1/preview", lambda world, dataset: [file(world)]),
    "datasets register": (
        "PUT /api/v1/datasets/{name}",
        lambda world, dataset: [dataset, file(world, "contract.json")],
    ),
    "rebuild": ("POST /api/v1/views/{view}/rebuild", lambda world, dataset: ["status", "--no-wait"]),
    "operations show": (
        "GET /api/v1/operations/{operation_id}",
        lambda world, dataset: [str(world.operation_id)],
    ),
    "views": ("GET /api/v1/views", lambda world, dataset: []),
    "replay": (
        "POST /api/v1/jobs/{job_id}/replay",
        lambda world, dataset: [str(world.doors.jobs[dataset]), "--no-wait"],
    ),
    "erase": (
        "POST /api/v1/erasures",
        lambda world, dataset: [str(world.doors.jobs[dataset]), "--reason", "a test", "--confirm", "erase"],
    ),
    "audit verify": ("POST /api/v1/audit/verify", lambda world, dataset: ["--level", "tree", "--no-wait"]),
    "audit prove": (
        "GET /api/v1/jobs/{job_id}/proof",
        lambda world, dataset: [str(world.doors.jobs[dataset]), "-o", file(world, "job.proof")],
    ),
    "audit checkpoint": ("GET /api/v1/audit/checkpoint", lambda world, dataset: []),
    "audit key": ("GET /api/v1/audit/checkpoint", lambda world, dataset: []),
    "audit trail": ("GET /api/v1/audit", lambda world, dataset: ["--limit", "1"]),
    "audit event": ("GET /api/v1/audit/{position}", lambda world, dataset: ["1"]),
    "audit export": (
        "GET /api/v1/audit/export",
        lambda world, dataset: ["--job", str(world.doors.jobs[dataset]), "-o", file(world, "trail.ndjson")],
    ),
    "archive status": ("GET /api/v1/archive/years/{label}", lambda world, dataset: ["FY2010-11"]),
    "archive plan": ("GET /api/v1/archive/years/{label}/plan", lambda world, dataset: ["FY2010-11"]),
    "archive run": ("POST /api/v1/archive/years/{label}/archive", lambda world, dataset: ["FY2010-11", "--no-wait"]),
    "archive drop": (
        "POST /api/v1/archive/years/{label}/drop",
        lambda world, dataset: ["FY2010-11", "--yes", "FY2010-11", "--no-wait"],
    ),
    "archive soft-close": (
        "POST /api/v1/archive/years/{label}/soft-close",
        lambda world, dataset: ["FY2010-11"],
    ),
    "archive close": (
        "POST /api/v1/archive/years/{label}/close",
        lambda world, dataset: ["FY2011-12", "--yes", "FY2011-12", "--no-wait"],
    ),
    "archive verify": ("POST /api/v1/archive/years/{label}/verify", lambda world, dataset: ["FY2010-11", "--no-wait"]),
    "archive reopen": (
        "POST /api/v1/archive/years/{label}/reopen",
        lambda world, dataset: ["FY2010-11", "--reason", "a test"],
    ),
    "archive post": (
        "POST /api/v1/archive/years/{label}/post",
        lambda world, dataset: [
            "FY2010-11",
            "--job",
            str(world.doors.jobs[dataset]),
            "--reason",
            "a test",
            "--no-wait",
        ],
    ),
    "archive approve": ("POST /api/v1/archive/years/{label}/approve", lambda world, dataset: ["FY2010-11"]),
    "archive hold": (
        "POST /api/v1/archive/years/{label}/hold",
        lambda world, dataset: ["FY2010-11", "--case", str(uuid4())],
    ),
    "archive lift-hold": (
        "POST /api/v1/archive/years/{label}/lift-hold",
        lambda world, dataset: ["FY2010-11", "--case", "none", "--reason", "a test"],
    ),
    "archive restore": (
        "POST /api/v1/archive/years/{label}/restore",
        lambda world, dataset: ["FY2010-11", "--reason", "a test"],
    ),
    "archive release": ("POST /api/v1/archive/years/{label}/release", lambda world, dataset: ["FY2010-11"]),
    "archive locks": ("GET /api/v1/archive/years/{label}/locks", lambda world, dataset: ["FY2010-11"]),
    "archive gc": ("GET /api/v1/archive/garbage", lambda world, dataset: []),
    "keys create": ("POST /api/v1/keys", lambda world, dataset: ["new", "--role", "viewer"]),
    "keys list": ("GET /api/v1/keys", lambda world, dataset: []),
    "keys revoke": ("POST /api/v1/keys/{key_id}/revoke", lambda world, dataset: [world.victim, "--reason", "a test"]),
    "whoami": ("GET /api/v1/whoami", lambda world, dataset: []),
}
# `up` starts a server, `config` and `audit check-export` ask none, and `doctor` tells of it what `whoami` does.
NOT_FOR_A_SERVER = {"up", "config", "doctor", "audit check-export"}
# No dataset is named in it.
OF_NO_DATASET = {"datasets infer"}
# It starts a process for each file: of those who may, one does.
SLOW = {"datasets infer"}


def job(world: World, dataset: str, rest: str = "") -> str:
    return f"/api/v1/jobs/{world.doors.jobs[dataset]}{rest}"


def file(world: World, name: str = "some.csv") -> str:
    path = world.doors.home.path / name
    path.write_bytes(CONTENT)
    if name.endswith(".json"):
        path.write_text(json.dumps(CONTRACT.to_dict()))
    return str(path)


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with running_doors(datasets=DATASETS) as doors:
        operation = doors.ledger.request(Stage.REBUILD, {"view": "status"}, STAMP)
        erased = erase_job(doors.ledger, doors.load_another(OWN), STAMP, reason="a test")
        yield World(doors, operation.id, doors.key(Role.VIEWER).key.key_id, erased.id, doors.export())


@pytest.fixture(scope="module")
def callers(world: World) -> list[Who]:
    doors = world.doors
    expired, revoked = doors.key(Role.ADMIN, expires_in=timedelta(0)), doors.key(Role.ADMIN)
    revoke_key(doors.ledger, revoked.key.key_id, STAMP, reason="a test")
    return [
        Who("admin", ADMIN_KEY, Role.ADMIN),
        *(Who(f"{role}", doors.key(role).text, role) for role in Role),
        *(Who(f"limited {role}", doors.key(role, OWN).text, role, is_limited=True) for role in Role),
        Who("anonymous", None, None),
        Who("wrong", f"{revoked.text[:-6]}000000", None),
        Who("expired", expired.text, None),
        Who("revoked", revoked.text, None),
    ]


def refusal(who: Who, route: str, dataset: str) -> HTTPStatus | None:
    """How a request is refused by the tables; None if it is not."""
    door = ROUTES[route]
    if door.is_open:
        return None
    if who.role is None:
        return UNAUTHORIZED
    is_foreign = dataset != OWN and door.reach not in (Reach.NONE, Reach.FILTERED)
    is_missing = door.permission is not None and door.permission not in PERMISSIONS_OF[who.role]
    if is_missing or (who.is_limited and door.reach is Reach.WHOLE):
        return FORBIDDEN
    if who.is_limited and is_foreign:
        return NOT_FOUND if door.reach in (Reach.JOB, Reach.READ) else FORBIDDEN
    return None


def test_every_route_of_the_application_is_in_the_table_and_has_an_example() -> None:
    app = create_app(Settings(api_key="lk_x"))
    there = {name for context in iter_route_contexts(app.routes) for name in names_of(context)}
    assert there == set(ROUTES) == set(EXAMPLES)


def test_an_application_with_a_route_that_is_not_in_the_table_does_not_start() -> None:
    app = create_app(Settings(api_key="lk_x"))

    @app.get("/api/v1/secrets")
    def secrets() -> None: ...

    with pytest.raises(AssertionError, match="GET /api/v1/secrets"):
        Routes(app.routes)


def test_only_health_is_open() -> None:
    assert {route for route, door in ROUTES.items() if door.is_open} == {"GET /livez", "GET /readyz"}
    known = {route for route, door in ROUTES.items() if door.permission is None and not door.is_open}
    assert known == {"GET /api/v1/whoami", "GET /api/v1/openapi.json", "GET /api/v1/audit/verify_proof.py"}


def test_what_changes_something_needs_more_than_to_read() -> None:
    reading = {None, Permission.READ_JOBS, Permission.READ_DATA, Permission.READ_AUDIT}
    assert [
        route for route, door in ROUTES.items() if not route.startswith("GET ") and door.permission in reading
    ] == []


@pytest.mark.parametrize("route", sorted(EXAMPLES))
def test_a_route_answers_each_caller_as_the_tables_say(world: World, callers: list[Who], route: str) -> None:
    method = route.partition(" ")[0]
    before: Any = None  # how things stood when somebody was last refused, if nobody was served since
    for who in callers:
        with world.doors.http(*([who.key] if who.key else [])) as http:
            for dataset in who.asks_about:
                expected = refusal(who, route, dataset)
                before = (before or world.doors.state()) if expected else None
                answer = http.request(method, **EXAMPLES[route](world, dataset))
                told = f"{who.name} to {route} of {dataset}: {answer.status_code} {answer.text[:200]}"
                if expected is None:
                    assert answer.status_code < 400 or answer.status_code in DONE_BEFORE_OR_NOT_UNDERSTOOD, told
                else:
                    assert answer.status_code == expected, told
                    check_explained(answer)
                    assert_unchanged(world, before, told, route)


def check_explained(answer: Any) -> None:
    problem = answer.json()
    assert problem["detail"]
    assert problem["remedy"]


def assert_unchanged(world: World, before: Any, told: str, route: str) -> None:
    """Nothing has changed; but the bytes of a form are kept before anybody knows which dataset it names."""
    after = world.doors.state()
    assert after == before or (route == "POST /uploadfiles/" and after[0] == before[0]), told


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_a_command_ends_for_each_caller_as_the_tables_say(
    world: World, callers: list[Who], command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    route, arguments = COMMANDS[command]
    monkeypatch.setenv("LEDGER_URL", world.doors.url)
    before: Any = None  # as above
    for who in callers:
        monkeypatch.setenv("LEDGER_API_KEY", who.key or "nothing")
        for dataset in who.asks_about:
            expected = refusal(who, route, OWN if command in OF_NO_DATASET else dataset)
            if expected is None and command in SLOW and who.key != ADMIN_KEY:
                continue
            before = (before or world.doors.state()) if expected else None
            ended_with = run([*command.split(), *arguments(world, dataset)])
            told = f"{who.name}: ledger {command} of {dataset} ended with {ended_with}"
            if expected is None:
                assert ended_with in (ExitCode.OK, ExitCode.CONFLICT), told
            else:
                assert ended_with == (ExitCode.NOT_FOUND if expected == NOT_FOUND else ExitCode.NOT_ALLOWED), told
                assert_unchanged(world, before, told, route)


def run(arguments: list[str]) -> int:
    """Run a command in this process: its exit code."""
    try:
        return int(COMMAND.main(arguments, standalone_mode=False) or ExitCode.OK)
    except CommandError as error:
        return error.exit_code


def test_every_command_that_asks_a_server_has_an_example() -> None:
    def commands(group: Any, above: str = "") -> Iterator[str]:
        for name, command in group.commands.items():
            yield from commands(command, f"{above}{name} ") if hasattr(command, "commands") else [above + name]

    assert set(commands(COMMAND)) == set(COMMANDS) | NOT_FOR_A_SERVER


def test_lists_hold_what_the_caller_sees(world: World) -> None:
    for role in Role:
        with world.doors.http(world.doors.key(role, OWN, "nothing").text) as http:
            assert {task["dataset"] for task in http.get("/api/v1/jobs").json()["tasks"]} == {OWN}
            assert http.get("/api/v1/jobs", params={"dataset": FOREIGN}).json()["tasks"] == []
            assert http.get("/api/v1/datasets").json() == {"datasets": [OWN]}
    with world.doors.http(ADMIN_KEY) as http:
        assert {task["dataset"] for task in http.get("/api/v1/jobs").json()["tasks"]} >= set(DATASETS)
        assert set(http.get("/api/v1/datasets").json()["datasets"]) >= set(DATASETS)


def test_a_page_of_a_limited_caller_is_full_and_goes_on(world: World) -> None:
    with world.doors.http(world.doors.key(Role.VIEWER, OWN).text) as http:
        page = http.get("/api/v1/jobs", params={"limit": 1}).json()
        assert [task["dataset"] for task in page["tasks"]] == [OWN]
        following = http.get("/api/v1/jobs", params={"limit": 1, "before": page["next"]}).json()
        assert {task["dataset"] for task in following["tasks"]} <= {OWN}


def test_a_foreign_thing_is_answered_as_one_that_is_not_there(world: World) -> None:
    """Word for word: else asking would tell what there is."""
    nobody = replace(world, doors=Doors(world.doors.url, world.doors.ledger, world.doors.home))
    for route, door in ROUTES.items():
        if door.reach not in (Reach.JOB, Reach.READ):
            continue
        role = next(role for role in Role if door.permission in PERMISSIONS_OF[role])
        with world.doors.http(world.doors.key(role, OWN).text) as http:
            nobody.doors.jobs["missing"] = missing = uuid4()
            method = route.partition(" ")[0]
            foreign = http.request(method, **EXAMPLES[route](world, FOREIGN))
            unknown = http.request(method, **EXAMPLES[route](nobody, "missing"))
        told = unknown.text.replace(str(missing), str(world.doors.jobs[FOREIGN])).replace("missing", FOREIGN)
        assert foreign.status_code == unknown.status_code == NOT_FOUND, route
        assert without_trace(foreign.text) == without_trace(told), route


def without_trace(problem: str) -> str:
    return problem.partition('"trace_id"')[0]


def test_a_limited_caller_reaches_no_foreign_dataset_by_a_files_name_an_archive_or_a_correction(
    world: World, tmp_path: Path
) -> None:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as writer:
        writer.writestr(f"{OWN}.csv", CONTENT)
        writer.writestr(f"{FOREIGN}.csv", CONTENT)
    key = world.doors.key(Role.UPLOADER, OWN).text
    before = world.doors.state()[0]
    with world.doors.http(key) as http:
        named = http.put(f"/api/v1/files/{FOREIGN}.csv", content=CONTENT)
        packed = http.put("/api/v1/files/all.zip", content=archive.getvalue())
        twice = http.put(f"/api/v1/files/x.csv?dataset={FOREIGN}&dataset={OWN}", content=CONTENT)
        form = http.post("/uploadfiles/", files=[("files", (f"{FOREIGN}.csv", CONTENT))])
        corrects = {"dataset": OWN, "corrects": str(world.doors.jobs[FOREIGN])}
        corrected = http.put("/api/v1/files/x.csv", params=corrects, content=CONTENT)
    assert [each.status_code for each in (named, packed, twice, form)] == [FORBIDDEN] * 4
    assert (corrected.status_code, FOREIGN in corrected.text) == (NOT_FOUND, False)
    assert world.doors.state()[0] == before


def test_a_body_is_not_waited_for_before_it_is_known_that_it_may_come(world: World) -> None:
    address = urlsplit(world.doors.url)
    for key in ("", world.doors.key(Role.VIEWER).text, world.doors.key(Role.UPLOADER, OWN).text):
        with socket.create_connection((address.hostname, address.port), timeout=60) as connection:
            head = f"PUT /api/v1/files/x.csv?dataset={FOREIGN} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n"
            connection.sendall(f"{head}Authorization: Bearer {key}\r\n\r\n".encode())
            assert connection.recv(1 << 16).split()[1] in (b"401", b"403")


def test_a_path_that_there_is_not_tells_nobody_who_is_not_known(world: World) -> None:
    for method in ("GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "TRACE"):
        for path in ("/", "/docs", "/no/such", "/livez/", "/readyz/../task/x", "/api/v1/jobs/"):
            with world.doors.http() as http:
                assert http.request(method, path).status_code == UNAUTHORIZED, (method, path)
    with world.doors.http(world.doors.key(Role.VIEWER).text) as http:
        assert http.get("/no/such").status_code == NOT_FOUND
        assert http.delete("/api/v1/jobs").status_code == HTTPStatus.METHOD_NOT_ALLOWED
