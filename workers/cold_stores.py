"""The cold store that the settings name, as those see it who archive, and those who verify."""

from __future__ import annotations

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


def _url(settings: Settings) -> str:
    if settings.archive_url is None:
        raise InvalidRequestError(
            "No place is set that years are archived in.", "Set LEDGER_ARCHIVE_URL to file:///folder or s3://bucket."
        )
    return settings.archive_url
