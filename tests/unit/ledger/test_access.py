"""Access: the table of roles, keys as facts, and people under a pseudonym."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.domain.access import ADMIN, PERMISSIONS_OF, Caller, Permission, Role, known_roles, roles_with
from ledger.domain.api_key import ApiKey
from ledger.domain.base import Stamp
from ledger.domain.user import User, user_id_of
from ledger.errors import ConflictError, InvalidRequestError

STAMP = Stamp(datetime(2026, 4, 1, tzinfo=UTC), "admin", "request-1")
CHANGES = {
    Permission.UPLOAD,
    Permission.OPERATE_JOBS,
    Permission.MANAGE_DATASETS,
    Permission.REBUILD,
    Permission.ADJUST,
    Permission.MANAGE_YEARS,
    Permission.MANAGE_KEYS,
    Permission.ERASE,
    Permission.ADJUST,
    Permission.MANAGE_YEARS,
}


def key(**values: object) -> ApiKey:
    given = {"name": "payroll", "role": Role.UPLOADER, "datasets": None, "expires_at": None, "secret_sha256": "9a" * 32}
    return ApiKey.create("9f3c1a7be2d0", STAMP, **{**given, **values})  # type: ignore[arg-type]


def test_every_role_has_a_line_and_every_permission_somebody_who_may() -> None:
    assert set(PERMISSIONS_OF) == set(Role)
    assert all(Role.ADMIN in roles_with(permission) for permission in Permission)
    assert PERMISSIONS_OF[Role.ADMIN] == set(Permission)


def test_an_auditor_reads_everything_and_changes_nothing() -> None:
    assert PERMISSIONS_OF[Role.AUDITOR] == set(Permission) - CHANGES


def test_keys_and_erasure_are_for_admins_alone() -> None:
    assert roles_with(Permission.MANAGE_KEYS) == roles_with(Permission.ERASE) == [Role.ADMIN]


@given(st.sets(st.sampled_from(Role)), st.none() | st.frozensets(st.sampled_from(["payments", "refunds"])))
def test_a_caller_may_what_a_role_allows_and_reaches_what_is_granted(
    roles: set[Role], datasets: frozenset[str] | None
) -> None:
    caller = Caller("key:1", tuple(roles), datasets)
    for permission in Permission:
        assert caller.may(permission) == any(permission in PERMISSIONS_OF[role] for role in roles)
    for dataset in ("payments", "refunds", "salaries"):
        assert caller.reaches(dataset) == (datasets is None or dataset in datasets)


def test_without_a_role_nothing_is_allowed() -> None:
    assert Caller("user:1", ()).permissions == frozenset()
    assert not ADMIN.is_limited


def test_words_that_are_no_roles_give_none() -> None:
    assert known_roles(["ADMIN", "root", "viewer", "offline_access", "viewer"]) == (Role.VIEWER,)


@pytest.mark.parametrize("name", ["", "  ", "x" * 201, "two\nlines", "\u202egnp", "nul\0"])
def test_a_key_without_a_name_that_can_be_shown_is_refused(name: str) -> None:
    with pytest.raises(InvalidRequestError, match="visible characters"):
        key(name=name)


@pytest.mark.parametrize("datasets", [[], ["payments", "no dataset"], [""]])
def test_a_key_for_what_is_no_dataset_is_refused(datasets: list[str]) -> None:
    with pytest.raises(InvalidRequestError):
        key(datasets=datasets)


def test_a_key_is_revoked_once_and_for_a_reason() -> None:
    given = key()
    for reason in ("", " ", "x" * 501):
        with pytest.raises(InvalidRequestError, match="reason"):
            given.revoke(STAMP, reason=reason)
    given.revoke(STAMP, reason="replaced")
    assert (given.revoked_by, given.revoked_because, given.revoked_at) == ("admin", "replaced", STAMP.at)
    with pytest.raises(ConflictError, match="revoked already"):
        given.revoke(STAMP, reason="again")


def test_a_user_is_written_down_again_only_under_a_name_that_is_new() -> None:
    user = User.see(STAMP, user_id="1", name="Anna")
    for name in ("Anna", "", "Anna März", "Anna", "Anna März"):
        user.see_again(STAMP, name=name)
    first, second = user.pending_events
    assert type(first) is type(second) is User.Seen
    rebuilt = second.mutate(first.mutate(None))
    assert (rebuilt.name, rebuilt.version, rebuilt.user_id) == ("Anna März", 2, "1")


def test_a_pseudonym_belongs_to_one_person_of_one_provider() -> None:
    pseudonyms = {user_id_of(issuer, subject) for issuer in ("https://a", "https://b") for subject in ("1", "2")}
    assert len(pseudonyms) == 4
    assert user_id_of("https://a", "1") in pseudonyms
