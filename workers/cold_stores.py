"""The cold store that the settings name, as those see it who archive, and those who verify."""

from __future__ import annotations

from urllib.parse import urlsplit

from archive.preflight import Refusal, refusals_of_store
from archive.stores import ColdStore, open_cold_store
from ledger.errors import InvalidRequestError
from ledger.settings import Settings


def cold_store(settings: Settings) -> ColdStore:
    """The store as whoever archives sees it. Raises InvalidRequestError: none is named."""
    return open_cold_store(_url(settings), settings.archive_kms_key)


def store_to_verify(settings: Settings) -> ColdStore:
    """The store with the credentials of whoever verifies, the same ones if none are named.

    Raises:
        InvalidRequestError: no store is named, or credentials that there are not.
    """
    return open_cold_store(_url(settings), profile=settings.archive_verifier_profile)


def is_bucket(settings: Settings) -> bool:
    """Whether years are archived where the prices of S3 hold."""
    return settings.archive_url is not None and urlsplit(settings.archive_url).scheme == "s3"


def refusals_of_cold_store(settings: Settings) -> list[Refusal]:
    """What is in the way of archiving where the settings say, with the credentials of this process.

    Raises:
        PartUnavailableError: the store cannot be reached, so nobody can say now.
    """
    if settings.archive_url is None:
        error = _no_place()
        return [Refusal("cold_store_missing", error.message, error.remedy)]
    return refusals_of_store(cold_store(settings))


def _url(settings: Settings) -> str:
    if settings.archive_url is None:
        raise _no_place()
    return settings.archive_url


def _no_place() -> InvalidRequestError:
    return InvalidRequestError(
        "No place is set that years are archived in.", "Set LEDGER_ARCHIVE_URL to file:///folder or s3://bucket."
    )
