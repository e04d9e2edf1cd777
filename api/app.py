"""The HTTP door: `uvicorn api.app:app`. A process's edge: the settings are read here."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any

from fastapi import Depends, FastAPI
from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
from opentelemetry.trace import Span

from api import (
    adjustments,
    archives,
    archiving,
    audit,
    datasets,
    erasures,
    health,
    jobs,
    keys,
    operations,
    preview,
    records,
    trail,
    uploading,
    years,
)
from api.access_record import AccessRecord
from api.auth import Gate, confirm_route
from api.errors import add_handlers
from api.identity import Identification
from api.permissions import Routes
from api.state import State
from ledger import failpoints, telemetry
from ledger.application import Ledger
from ledger.blobs import open_blob_store
from ledger.database import prepare
from ledger.keys import restore_keys
from ledger.settings import Settings
from projections.view_store import connect
from workers.results import Results

UPLOAD_THREADS = 64
# Where a span has the address of a request, by the old and the new conventions; None for its path alone.
ADDRESS_ATTRIBUTES = {"http.target": None, "http.url": None, "url.full": None, "url.path": None, "url.query": ""}


def create_app(settings: Settings) -> FastAPI:
    """The application, for the given settings.

    Raises:
        RuntimeError: no admin key is set, so nobody could be let in.
    """
    admin_key = settings.admin_key()
    if not admin_key:
        raise RuntimeError("No admin key is set. Give LEDGER_API_KEY or LEDGER_API_KEY_FILE.")

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        telemetry.configure("api", settings)
        failpoints.use(settings.failpoints)
        # Uploads that wait for PostgreSQL hold a thread each; those that are still coming in need one, too.
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(UPLOAD_THREADS, "upload"))
        ledger = Ledger(settings)
        telemetry.instrument_engine(ledger.engine)
        ledger.prepare()
        # Which work is due, whether somebody is at it, and what was refused, is told by doors as well.
        for package in ("projections", "workers"):
            prepare(ledger.engine, package)
        blobs = open_blob_store(settings.blobs_url)
        blobs.sweep()
        views = connect(settings.views_url.get_secret_value())
        restore_keys(ledger)
        access = AccessRecord(ledger)
        identification = Identification(admin_key, settings, ledger, access)
        app.state.ledger = State(settings, ledger, blobs, views, Results(settings), access, identification)
        access.start()
        yield
        access.stop()
        telemetry.flush()

    app = FastAPI(
        title="Ingestion ledger",
        version=version("ingestion-ledger"),
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        openapi_url="/api/v1/openapi.json",
        dependencies=[Depends(confirm_route)],
    )
    add_handlers(app)
    doors = (
        health, uploading, preview, jobs, records, datasets, operations, audit, trail, erasures, keys, years, archiving,
        archives, adjustments,
    )  # fmt: skip
    for module in doors:
        app.include_router(module.router)
    app.add_middleware(Gate, routes=Routes(app.routes))
    FastAPIInstrumentor.instrument_app(
        app, excluded_urls="livez,readyz", exclude_spans=["receive", "send"], server_request_hook=_name_nothing
    )
    return app


def _name_nothing(span: Span, scope: dict[str, Any]) -> None:
    """Leave out of a span what an address says of a file, which can be erased in the log, and nowhere else."""
    path = scope["path"]
    shown = "/api/v1/files/{name}" if path.startswith("/api/v1/files/") else path
    told = getattr(span, "attributes", None) or {}
    for attribute, instead in ADDRESS_ATTRIBUTES.items():
        if attribute in told:
            span.set_attribute(attribute, shown if instead is None else instead)


def __getattr__(name: str) -> FastAPI:
    # Made when a server asks for it, so that importing this module needs no settings.
    if name == "app":
        return create_app(Settings())
    raise AttributeError(name)
