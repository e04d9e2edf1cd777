"""The tasks that the broker's messages name. A message carries ids, and the time it was published."""

from __future__ import annotations

import logging
from typing import Any
from uuid import UUID

from celery import Task
from pydantic import BaseModel, ConfigDict, Field

from ledger import telemetry
from ledger.application import Ledger
from ledger.database import prepare
from ledger.domain.operation import Operation
from ledger.domain.words import Stage
from ledger.errors import LedgerError, PartUnavailableError
from ledger.settings import Settings
from workers.adjustments import post_late_records
from workers.app import app
from workers.archives import hold_fiscal_year, restore_fiscal_year
from workers.archiving import archive_fiscal_year
from workers.load import load_chunk
from workers.operations import Act, Tell, operate, rebuild_view
from workers.plan import plan_file
from workers.replay import replay_job
from workers.results import News
from workers.verification import verify_record
from workers.workshop import Procedure, Workshop, perform
from workers.years import close_fiscal_year

log = logging.getLogger(__name__)

CHUNK_MAX = (1 << 31) - 1  # the column's type

_settings: list[Settings] = []
_workshop: list[Workshop] = []


class WorkMessage(BaseModel):
    """What a message says: which work is due, and when it was published."""

    model_config = ConfigDict(extra="forbid")

    job_id: UUID
    chunk: int = Field(ge=0, le=CHUNK_MAX, strict=True)
    published_at_seconds: float = Field(ge=0, allow_inf_nan=False)


def prepare_all(ledger: Ledger) -> None:
    """Make every schema that the workers use, if it is not there."""
    ledger.prepare()
    for package in ("projections", "workers"):
        prepare(ledger.engine, package)


def enter(settings: Settings) -> None:
    """Set up this process's workshop, once, after the fork."""
    _settings[:] = [settings]
    _ready()


def _ready() -> Workshop | None:
    """The workshop; None while PostgreSQL is away and it has not been set up yet: the next message tries again."""
    if not _workshop:
        try:
            _workshop[:] = [_set_up(_settings[0])]
        except PartUnavailableError as error:
            log.warning("this worker cannot work yet: %s", error, extra={"action": "worker_not_ready"})
    return next(iter(_workshop), None)


def _set_up(settings: Settings) -> Workshop:
    workshop = Workshop.of(Ledger(settings), settings)
    telemetry.instrument_engine(workshop.ledger.engine)
    prepare_all(workshop.ledger)
    return workshop


# Anything may lie in a queue: what is not a message of ours is counted, logged, and done with.
@app.task(name="ledger.plan", typing=False)
def plan(*arguments: Any, **message: Any) -> None:
    """Plan a job's file."""
    _perform(plan_file, Stage.PLAN, arguments, message)


@app.task(name="ledger.load", typing=False)
def load(*arguments: Any, **message: Any) -> None:
    """Load one chunk of a job."""
    _perform(load_chunk, Stage.LOAD, arguments, message)


# Acknowledged when it begins: a broker does not wait as long as a rebuild may take, and its lease says that it is due.
@app.task(name="ledger.rebuild", typing=False, bind=True, ignore_result=False, acks_late=False, throws=(LedgerError,))
def rebuild(task: Task[Any, Any], *arguments: Any, **message: Any) -> dict[str, Any]:
    """Build a view anew, check it or roll it back, as an operation asks for."""
    news = News(task)
    return news.end(_operate(rebuild_view, Stage.REBUILD, arguments, message, news.progress))


@app.task(name="ledger.verify", typing=False, bind=True, ignore_result=False, acks_late=False, throws=(LedgerError,))
def verify(task: Task[Any, Any], *arguments: Any, **message: Any) -> dict[str, Any]:
    """Verify the record against what was sealed, as an operation asks for."""
    news = News(task)
    return news.end(_operate(verify_record, Stage.VERIFY, arguments, message, news.progress))


@app.task(name="ledger.replay", typing=False, bind=True, ignore_result=False, acks_late=False, throws=(LedgerError,))
def replay(task: Task[Any, Any], *arguments: Any, **message: Any) -> dict[str, Any]:
    """Replay a job, as an operation asks for."""
    news = News(task)
    return news.end(_operate(replay_job, Stage.REPLAY, arguments, message, news.progress))


@app.task(
    name="ledger.close_year", typing=False, bind=True, ignore_result=False, acks_late=False, throws=(LedgerError,)
)
def close_year(task: Task[Any, Any], *arguments: Any, **message: Any) -> dict[str, Any]:
    """Close a fiscal year, as an operation asks for."""
    news = News(task)
    return news.end(_operate(close_fiscal_year, Stage.CLOSE_YEAR, arguments, message, news.progress))


@app.task(
    name="ledger.archive_year", typing=False, bind=True, ignore_result=False, acks_late=False, throws=(LedgerError,)
)
def archive_year(task: Task[Any, Any], *arguments: Any, **message: Any) -> dict[str, Any]:
    """Archive a fiscal year that is closed, as an operation asks for."""
    news = News(task)
    return news.end(_operate(archive_fiscal_year, Stage.ARCHIVE_YEAR, arguments, message, news.progress))


@app.task(
    name="ledger.restore_year", typing=False, bind=True, ignore_result=False, acks_late=False, throws=(LedgerError,)
)
def restore_year(task: Task[Any, Any], *arguments: Any, **message: Any) -> dict[str, Any]:
    """Bring a fiscal year back from cold storage, as an operation asks for."""
    news = News(task)
    return news.end(_operate(restore_fiscal_year, Stage.RESTORE_YEAR, arguments, message, news.progress))


@app.task(name="ledger.hold_year", typing=False, bind=True, ignore_result=False, acks_late=False, throws=(LedgerError,))
def hold_year(task: Task[Any, Any], *arguments: Any, **message: Any) -> dict[str, Any]:
    """Have the objects of a fiscal year held as the log says, as an operation asks for."""
    news = News(task)
    return news.end(_operate(hold_fiscal_year, Stage.HOLD_YEAR, arguments, message, news.progress))


@app.task(
    name="ledger.post_adjustment", typing=False, bind=True, ignore_result=False, acks_late=False, throws=(LedgerError,)
)
def post_adjustment(task: Task[Any, Any], *arguments: Any, **message: Any) -> dict[str, Any]:
    """Post late records of a fiscal year as an adjustment, as an operation asks for."""
    news = News(task)
    return news.end(_operate(post_late_records, Stage.POST_ADJUSTMENT, arguments, message, news.progress))


def _perform(procedure: Procedure, stage: Stage, arguments: tuple[Any, ...], message: dict[str, Any]) -> None:
    wanted, workshop = _understood(stage, arguments, message), _ready()
    if wanted is not None and workshop is not None:  # else the work stays due, and its message will be sent again
        perform(workshop, procedure, wanted.job_id, stage, wanted.chunk, wanted.published_at_seconds)


def _operate(
    act: Act, stage: Stage, arguments: tuple[Any, ...], message: dict[str, Any], tell: Tell
) -> Operation | None:
    wanted, workshop = _understood(stage, arguments, message), _ready()
    if wanted is None or workshop is None:
        return None
    return operate(workshop, act, wanted.job_id, stage, wanted.published_at_seconds, tell)


def _understood(stage: Stage, arguments: tuple[Any, ...], message: dict[str, Any]) -> WorkMessage | None:
    try:
        return WorkMessage.model_validate({**message, "arguments": arguments} if arguments else message)
    except ValueError as error:
        telemetry.MESSAGES_REFUSED.add(1, {telemetry.STAGE: stage.value})
        log.warning(
            "a message is not one of ours: %s fields, %s",
            len(message),
            type(error).__name__,
            extra={"action": "message_refused", "stage": stage.value},
        )
        return None
