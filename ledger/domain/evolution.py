"""Evolution: how a file or another contract differs from a contract, in sentences."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from ledger.domain.column import EXCERPT_CHARACTERS_MAX
from ledger.domain.contract import Contract, ExtraColumns, MissingColumns


def differences(names: Sequence[str], header: Sequence[str]) -> list[str]:
    """How a file's columns differ from those of a contract, one readable sentence each; empty when they do not.

    Args:
        names: those that the contract wants to see.
        header: the names as columns are named, see `projections.formats.header.column_names`.
    """
    wanted, there = set(names), set(header)
    missing = [name for name in names if name not in there]
    extra = [name for name in header if name not in wanted]
    found = []
    if missing:
        found.append(f"The file lacks {len(missing)} of the contract's columns: {_listed(missing)}.")
    if extra:
        found.append(f"The file has {len(extra)} columns that are not in the contract: {_listed(extra)}.")
    repeated = sorted(name for name, count in Counter(header).items() if name in wanted and count > 1)
    if repeated:
        found.append(f"The file has more than one column of the same name: {_listed(repeated)}.")
    shared = [name for name in header if name in wanted]
    ordered = [name for name in names if name in there]
    if not repeated and shared != ordered:
        ours, theirs = next((a, b) for a, b in zip(ordered, shared, strict=True) if a != b)
        found.append(
            f"The columns stand in another order: where the contract has {_listed([ours])} "
            f"the file has {_listed([theirs])}."
        )
    return found


def misfit(contract: Contract, header: list[str]) -> list[str]:
    """Why a file with these columns does not fit a contract, one readable sentence each; empty when it does.

    Another order does no harm, and what is beyond the contract or lacking may be allowed by it.
    """
    there = set(header)
    may_lack = contract.missing_columns is MissingColumns.NULL
    names = [column.name for column in contract.columns if column.name in there or not (may_lack and column.nullable)]
    if contract.extra_columns is ExtraColumns.IGNORE:
        known = {column.name for column in contract.columns}
        header = [name for name in header if name in known]
    if not names:
        return ["The file has none of the contract's columns."]
    return [] if sorted(header) == sorted(names) else differences(names, header)


def evolution_refused(now: Contract, wanted: Contract) -> list[str]:
    """Why a contract cannot become another one, one readable sentence each; empty when it can.

    What is loaded stays as it is. So columns that may be empty can be added at the end, and what does not touch the
    table may change: how values are written, which are allowed, and what becomes of what does not fit.
    """
    found = []
    for known, other in zip(now.columns, wanted.columns, strict=False):
        if known.name != other.name:
            found.append(f"Column {known.name!r} would become {other.name!r}.")
        elif known.type != other.type:
            found.append(f"Column {known.name!r} is of type {known.type} and would become {other.type}.")
        elif known.nullable != other.nullable:
            may = "may" if known.nullable else "may not"
            found.append(f"Column {known.name!r} {may} be empty, and that would change.")
    if len(wanted.columns) < len(now.columns):
        found.append(f"It lacks {_listed([column.name for column in now.columns[len(wanted.columns) :]])}.")
    for added in wanted.columns[len(now.columns) :]:
        if not added.nullable:
            found.append(f"The new column {added.name!r} may not be empty, and has no value in what is loaded.")
    if now.is_fixed != wanted.is_fixed:
        found.append(f"Its columns {'have widths and would have none' if now.is_fixed else 'would have widths'}.")
    if now.key != wanted.key:
        found.append(f"The key is {_listed([*now.key]) or 'none'} and would be {_listed([*wanted.key]) or 'none'}.")
    if now.fiscal_date_column != wanted.fiscal_date_column:
        found.append(
            f"The fiscal year is decided by {now.fiscal_date_column or 'the day of receipt'}, and would be decided by "
            f"{wanted.fiscal_date_column or 'the day of receipt'}."
        )
    return found


def _listed(names: list[str]) -> str:
    """The first names, together at most 80 characters of them, and how many more there are."""
    shown: list[str] = []
    room = EXCERPT_CHARACTERS_MAX // 2
    for name in names:
        if shown and len(name) > room:
            break
        shown.append(repr(name[:room]) + ("..." if len(name) > room else ""))
        room -= min(len(name), room)
    more = len(names) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")
