"""Datasets: their contracts, declared or inferred, and how they change."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Body, Query, Request

from api.state import CurrentState, stamp
from ledger.domain.contract import Contract, check_dataset_name
from ledger.domain.dataset import Dataset
from ledger.errors import NotFoundError

router = APIRouter(tags=["datasets"])

REASON_CHARACTERS_MAX = 500


@router.get("/api/v1/datasets")
def list_datasets(state: CurrentState) -> dict[str, Any]:
    """The names of all datasets."""
    return {"datasets": state.ledger.dataset_names()}


@router.get("/api/v1/datasets/{name}")
def show_dataset(name: str, state: CurrentState) -> dict[str, Any]:
    """A dataset's contract as it is in force, and the digest of every version."""
    check_dataset_name(name)
    known = state.ledger.dataset(name)
    if known is None:
        raise NotFoundError(
            f"There is no dataset {name!r}.", "It comes into being with its first file, or by registering it."
        )
    return _answer(known)


@router.put("/api/v1/datasets/{name}")
def register_dataset(
    name: str,
    request: Request,
    state: CurrentState,
    contract: Annotated[dict[str, Any], Body()],
    reason: Annotated[str, Query(max_length=REASON_CHARACTERS_MAX)] = "",
) -> dict[str, Any]:
    """Declare a dataset before its first file, or give it the next version of its contract."""
    check_dataset_name(name)
    wanted = Contract.from_dict(contract)
    if any(column.pattern for column in wanted.columns):
        # Arrow takes 50 MiB, which a door that never sees a pattern does not need.
        from projections.allowing import check_patterns

        check_patterns(wanted)
    return _answer(state.ledger.register_dataset(name, wanted, stamp(request), reason=reason))


def _answer(dataset: Dataset) -> dict[str, Any]:
    return {
        "dataset": dataset.name,
        "table": f"data.{dataset.name}",
        "contract_version": dataset.contract_version,
        "contract": dataset.contract.to_dict(),
        "digests": [contract.digest() for contract in dataset.contracts],
    }
