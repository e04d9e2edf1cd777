"""What each route needs: ROUTE → PERMISSION, and where the dataset stands that it is about.

Rules:
1. A route that is not in the table is closed to everybody, and an application that has one does not start.
2. A caller who is limited to some datasets sees nothing of the others: what it asks about them is answered as if they
   were not there (404). Only what it wants to put into one of them is refused by name (403), for it named that itself.
3. What concerns the whole ledger is refused to a caller with limits (403).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from fastapi.routing import RouteContext, iter_route_contexts
from starlette.routing import BaseRoute, Match
from starlette.types import Scope

from ledger.domain.access import Permission


class Reach(StrEnum):
    """Which dataset a route is about."""

    NONE = "none"
    """No dataset and nothing of one."""
    WHOLE = "whole"
    """All of them: nobody with limits may."""
    FILTERED = "filtered"
    """All of them, and the route leaves out what the caller does not see."""
    JOB = "job"
    """That of the job in the path."""
    READ = "read"
    """The one in the path, to look at it."""
    WRITE = "write"
    """The one in the path, to change it."""
    SENT = "sent"
    """The one that the query names, and those that the route finds out for itself: see `api.auth.check_reaches`."""


@dataclass(frozen=True)
class Door:
    """What a route needs. `permission` is None where it is enough to be known; `is_open`: not even that."""

    permission: Permission | None
    reach: Reach
    parameter: str = ""
    is_open: bool = False


OPEN = Door(None, Reach.NONE, is_open=True)
KNOWN = Door(None, Reach.NONE)

ROUTES: dict[str, Door] = {
    "GET /livez": OPEN,
    "GET /readyz": OPEN,
    "GET /api/v1/openapi.json": KNOWN,
    "GET /api/v1/whoami": KNOWN,
    "POST /uploadfiles/": Door(Permission.UPLOAD, Reach.SENT),
    "PUT /api/v1/files/{name:path}": Door(Permission.UPLOAD, Reach.SENT),
    "POST /api/v1/preview": Door(Permission.UPLOAD, Reach.SENT),
    "GET /task/{task_id}": Door(Permission.READ_JOBS, Reach.JOB, "task_id"),
    "GET /api/v1/jobs": Door(Permission.READ_JOBS, Reach.FILTERED),
    "GET /api/v1/jobs/{job_id}": Door(Permission.READ_JOBS, Reach.JOB, "job_id"),
    "GET /api/v1/jobs/{job_id}/events": Door(Permission.READ_JOBS, Reach.JOB, "job_id"),
    "GET /api/v1/jobs/{job_id}/reconciliation": Door(Permission.READ_JOBS, Reach.JOB, "job_id"),
    "GET /api/v1/jobs/{job_id}/rejects": Door(Permission.READ_DATA, Reach.JOB, "job_id"),
    "GET /api/v1/jobs/{job_id}/rejects.csv": Door(Permission.READ_DATA, Reach.JOB, "job_id"),
    "GET /api/v1/jobs/{job_id}/records/{record}": Door(Permission.READ_DATA, Reach.JOB, "job_id"),
    "GET /api/v1/lineage/{dataset}": Door(Permission.READ_DATA, Reach.READ, "dataset"),
    "POST /api/v1/jobs/{job_id}/retry": Door(Permission.OPERATE_JOBS, Reach.JOB, "job_id"),
    "POST /api/v1/jobs/{job_id}/cancel": Door(Permission.OPERATE_JOBS, Reach.JOB, "job_id"),
    "POST /api/v1/jobs/{job_id}/rejects/waive": Door(Permission.OPERATE_JOBS, Reach.JOB, "job_id"),
    "GET /api/v1/datasets": Door(Permission.READ_JOBS, Reach.FILTERED),
    "GET /api/v1/datasets/{name}": Door(Permission.READ_JOBS, Reach.READ, "name"),
    "PUT /api/v1/datasets/{name}": Door(Permission.MANAGE_DATASETS, Reach.WRITE, "name"),
    "GET /api/v1/views": Door(Permission.READ_JOBS, Reach.WHOLE),
    "POST /api/v1/views/{view}/rebuild": Door(Permission.REBUILD, Reach.WHOLE),
    "GET /api/v1/operations/{operation_id}": Door(Permission.READ_JOBS, Reach.WHOLE),
    "POST /api/v1/jobs/{job_id}/replay": Door(Permission.VERIFY, Reach.WHOLE),
    "POST /api/v1/audit/verify": Door(Permission.VERIFY, Reach.WHOLE),
    "GET /api/v1/audit": Door(Permission.READ_AUDIT, Reach.WHOLE),
    "GET /api/v1/audit/{position}": Door(Permission.READ_AUDIT, Reach.WHOLE),
    "GET /api/v1/audit/export": Door(Permission.READ_AUDIT, Reach.WHOLE),
    "GET /api/v1/audit/exports/{export_id}/manifest": Door(Permission.READ_AUDIT, Reach.WHOLE),
    "GET /api/v1/audit/checkpoint": Door(Permission.READ_AUDIT, Reach.NONE),
    "GET /api/v1/audit/verify_proof.py": KNOWN,
    "GET /api/v1/jobs/{job_id}/proof": Door(Permission.READ_AUDIT, Reach.JOB, "job_id"),
    "GET /api/v1/events/{position}/proof": Door(Permission.READ_AUDIT, Reach.WHOLE),
    "POST /api/v1/erasures": Door(Permission.ERASE, Reach.WHOLE),
    "GET /api/v1/erasures/{erasure_id}": Door(Permission.READ_AUDIT, Reach.WHOLE),
    "GET /api/v1/archive/years": Door(Permission.READ_JOBS, Reach.WHOLE),
    "GET /api/v1/archive/years/{label}": Door(Permission.READ_JOBS, Reach.WHOLE),
    "GET /api/v1/archive/years/{label}/closing": Door(Permission.READ_JOBS, Reach.WHOLE),
    "GET /api/v1/archive/years/{label}/plan": Door(Permission.READ_JOBS, Reach.WHOLE),
    "GET /api/v1/archive/years/{label}/archive": Door(Permission.READ_JOBS, Reach.WHOLE),
    "POST /api/v1/archive/years/{label}/archive": Door(Permission.MANAGE_YEARS, Reach.WHOLE),
    "POST /api/v1/archive/years/{label}/drop": Door(Permission.MANAGE_YEARS, Reach.WHOLE),
    "POST /api/v1/archive/years/{label}/soft-close": Door(Permission.MANAGE_YEARS, Reach.WHOLE),
    "POST /api/v1/archive/years/{label}/close": Door(Permission.MANAGE_YEARS, Reach.WHOLE),
    "POST /api/v1/archive/years/{label}/verify": Door(Permission.VERIFY, Reach.WHOLE),
    "GET /api/v1/archive/years/{label}/post": Door(Permission.READ_JOBS, Reach.WHOLE),
    "POST /api/v1/archive/years/{label}/post": Door(Permission.ADJUST, Reach.WHOLE),
    "POST /api/v1/archive/years/{label}/reopen": Door(Permission.MANAGE_YEARS, Reach.WHOLE),
    "POST /api/v1/archive/years/{label}/approve": Door(Permission.MANAGE_YEARS, Reach.WHOLE),
    "POST /api/v1/archive/years/{label}/hold": Door(Permission.MANAGE_YEARS, Reach.WHOLE),
    "POST /api/v1/archive/years/{label}/lift-hold": Door(Permission.MANAGE_YEARS, Reach.WHOLE),
    "GET /api/v1/archive/years/{label}/restore": Door(Permission.READ_JOBS, Reach.WHOLE),
    "POST /api/v1/archive/years/{label}/restore": Door(Permission.MANAGE_YEARS, Reach.WHOLE),
    "POST /api/v1/archive/years/{label}/release": Door(Permission.MANAGE_YEARS, Reach.WHOLE),
    "GET /api/v1/archive/years/{label}/locks": Door(Permission.READ_AUDIT, Reach.WHOLE),
    "GET /api/v1/archive/garbage": Door(Permission.MANAGE_YEARS, Reach.WHOLE),
    "POST /api/v1/keys": Door(Permission.MANAGE_KEYS, Reach.WHOLE),
    "GET /api/v1/keys": Door(Permission.MANAGE_KEYS, Reach.WHOLE),
    "POST /api/v1/keys/{key_id}/revoke": Door(Permission.MANAGE_KEYS, Reach.WHOLE),
}


@dataclass(frozen=True)
class Found:
    """The route that a request goes to; `door` is None for one that is not in the table."""

    template: str
    door: Door | None
    endpoint: Callable[..., Any]
    parameters: dict[str, Any]


def names_of(context: RouteContext) -> list[str]:
    """A route as the table names it. HEAD is the GET of a route without its body."""
    methods = sorted((context.methods or {"ANY"}) - {"HEAD"})
    return [f"{method} {context.path}" for method in methods]


class Routes:
    """The routes of an application, each with what it needs."""

    def __init__(self, routes: list[BaseRoute]) -> None:
        self._contexts = list(iter_route_contexts(routes))
        there = {name for context in self._contexts for name in names_of(context)}
        assert there == set(ROUTES), f"in the application and not in the table, or the other way: {there ^ set(ROUTES)}"

    def find(self, scope: Scope) -> Found | None:
        """The route that the application will choose, None if there is none for that path and method."""
        for context in self._contexts:
            match, chosen = context.matches(scope)
            if match is Match.FULL:
                method = "GET" if scope["method"] == "HEAD" else scope["method"]
                template = str(context.path)
                door = ROUTES.get(f"{method} {template}")
                return Found(template, door, chosen["endpoint"], chosen["path_params"])
        return None
