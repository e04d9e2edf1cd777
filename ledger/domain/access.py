"""Access: who may do what. ROLE → PERMISSIONS stands here, ROUTE → PERMISSION in `api.permissions`.

Rules:
1. What a caller may do is decided by roles alone. A caller without a role may do nothing but ask who it is.
2. A caller may be limited to some datasets; a limit only takes away. What concerns the whole ledger (operations, the
   audit, keys) is closed to who is limited, whatever the role.
3. A caller is named in events by a pseudonym: `admin`, `key:ID` or `user:ID`. Who that is stands in one event only.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


class Permission(StrEnum):
    """What a caller may be allowed to do."""

    READ_JOBS = "read_jobs"
    """Jobs with their events, datasets with their contracts, and how operations stand."""
    READ_DATA = "read_data"
    """Records as they were sent: rejects, and the rows that bytes became."""
    UPLOAD = "upload"
    """Send files, and see beforehand what would become of them."""
    OPERATE_JOBS = "operate_jobs"
    """Retry and cancel jobs, waive rejects."""
    MANAGE_DATASETS = "manage_datasets"
    """Register datasets, and change their contracts."""
    REBUILD = "rebuild"
    """Build views anew, switch to them and back."""
    READ_AUDIT = "read_audit"
    """The audit trail, its export, proofs and checkpoints."""
    VERIFY = "verify"
    """Have the log verified and jobs replayed, which changes neither."""
    ADJUST = "adjust"
    """Add rows to a fiscal year that is closed softly, or was reopened; post late records of one that is closed."""
    MANAGE_YEARS = "manage_years"
    """Close and reopen fiscal years, and hold them."""
    MANAGE_KEYS = "manage_keys"
    """Create, list and revoke API keys."""
    ERASE = "erase"
    """Erase personal data."""


class Role(StrEnum):
    """What a key or a user is for."""

    VIEWER = "viewer"
    UPLOADER = "uploader"
    OPERATOR = "operator"
    ACCOUNTANT = "accountant"
    AUDITOR = "auditor"
    ADMIN = "admin"


_VIEWER = frozenset({Permission.READ_JOBS})
_UPLOADER = _VIEWER | {Permission.READ_DATA, Permission.UPLOAD}
_OPERATOR = _UPLOADER | {
    Permission.OPERATE_JOBS,
    Permission.MANAGE_DATASETS,
    Permission.REBUILD,
    Permission.VERIFY,
}

PERMISSIONS_OF: dict[Role, frozenset[Permission]] = {
    Role.VIEWER: _VIEWER,
    Role.UPLOADER: _UPLOADER,
    Role.OPERATOR: _OPERATOR,
    Role.ACCOUNTANT: _UPLOADER | {Permission.ADJUST, Permission.MANAGE_YEARS},
    Role.AUDITOR: _VIEWER | {Permission.READ_DATA, Permission.READ_AUDIT, Permission.VERIFY},
    Role.ADMIN: frozenset(Permission),
}


@dataclass(frozen=True)
class Caller:
    """Who asks. `datasets` are those that the caller sees, None for all of them."""

    actor: str
    roles: tuple[Role, ...]
    datasets: frozenset[str] | None = None

    @property
    def permissions(self) -> frozenset[Permission]:
        """All that the roles allow."""
        return frozenset().union(*(PERMISSIONS_OF[role] for role in self.roles))

    @property
    def is_limited(self) -> bool:
        """Whether there are datasets that the caller does not see."""
        return self.datasets is not None

    def may(self, permission: Permission) -> bool:
        """Whether a role of the caller allows it."""
        return permission in self.permissions

    def reaches(self, dataset: str) -> bool:
        """Whether the caller sees a dataset."""
        return self.datasets is None or dataset in self.datasets


ADMIN = Caller("admin", (Role.ADMIN,))
ANONYMOUS = "anonymous"


def roles_with(permission: Permission) -> list[Role]:
    """The roles that allow something."""
    return [role for role in Role if permission in PERMISSIONS_OF[role]]


def known_roles(names: Iterable[str]) -> tuple[Role, ...]:
    """Those of the names that are roles, each once, in the order of the table."""
    named = set(names)
    return tuple(role for role in Role if role.value in named)
