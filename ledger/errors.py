"""The errors of the world: what a sender, an operator or a broken part can cause.

Each error names what is wrong, where, why and what to do, in words a finance team can act on. Our own
mistakes are assertions and crash; they never become one of these. HTTP status codes belong to `api.errors`
alone.
"""

from __future__ import annotations

from typing import Any


class LedgerError(Exception):
    """Something outside this program is not as it must be.

    `code` is a stable machine name (`snake_case`), `message` says what, where and why, `remedy` says what to do.
    """

    code = "ledger_error"

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(f"{message} {remedy}".strip())
        self.message = message
        self.remedy = remedy


class InvalidRequestError(LedgerError):
    """The caller asked for something that cannot be meant."""

    code = "invalid_request"


class NotFoundError(LedgerError):
    """The thing asked for is not in the ledger."""

    code = "not_found"


def no_such_job(job_id: object) -> NotFoundError:
    """The job is not there, or not for who asks: nobody can tell which."""
    return NotFoundError(f"There is no job {job_id}.", "`ledger jobs list` shows those there are.")


def no_such_dataset(name: str) -> NotFoundError:
    """The dataset is not there, or not for who asks: nobody can tell which."""
    return NotFoundError(
        f"There is no dataset {name[:80]!r}.", "It comes into being with its first file, or by registering it."
    )


class ConflictError(LedgerError):
    """The thing exists, in a state that forbids what was asked."""

    code = "conflict"


class FileRefusedError(LedgerError):
    """The file's own content makes loading impossible: trying again cannot help.

    `record` counts from 1 as it stands in the file, `line` is the physical line, `byte_offset` counts from the
    start of the file, `column` is the contract's name for it; each is None where it is not known.
    """

    code = "file_refused"

    def __init__(
        self,
        code: str,
        message: str,
        remedy: str,
        *,
        record: int | None = None,
        line: int | None = None,
        byte_offset: int | None = None,
        column: str | None = None,
    ) -> None:
        super().__init__(message, remedy)
        self.code = code
        self.record = record
        self.line = line
        self.byte_offset = byte_offset
        self.column = column

    def arguments(self) -> dict[str, Any]:
        """What makes the same error again, in another process."""
        names = ("code", "message", "remedy", "record", "line", "byte_offset", "column")
        return {name: getattr(self, name) for name in names}


class PartUnavailableError(LedgerError):
    """A part that this operation needs (database, broker, blob store) cannot be reached now."""

    code = "part_unavailable"


class BlobCutError(PartUnavailableError):
    """A blob ends before its size. Where its copy is whole nothing is lost, so whoever needs it waits for that."""


class UnreadableEventError(LedgerError):
    """An event in the log is of an unknown kind, or its content cannot be read. Whoever follows the log stops at it."""

    code = "unreadable_event"
