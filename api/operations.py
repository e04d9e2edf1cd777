"""Datasets and views: what an operator looks after."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request

from api.state import CurrentState, stamp
from ledger.domain.contract import Contract, check_dataset_name
from ledger.domain.dataset import Dataset
from ledger.errors import NotFoundError
from projections.rebuild import rebuild

router = APIRouter(prefix="/api/v1", tags=["operations"])


@router.get("/datasets/{name}")
def show_dataset(name: str, state: CurrentState) -> dict[str, Any]:
    """A dataset and its contract."""
    check_dataset_name(name)
    dataset = state.ledger.dataset(name)
    if dataset is None:
        raise NotFoundError(
            f"There is no dataset {name!r}.", "It comes into being with its first file, or by registering it."
        )
    return _answer(dataset)


@router.put("/datasets/{name}")
def register_dataset(name: str, contract: dict[str, Any], request: Request, state: CurrentState) -> dict[str, Any]:
    """Declare a dataset's contract before its first file: column types, null token, fiscal-date column."""
    check_dataset_name(name)
    return _answer(state.ledger.register_dataset(name, Contract.from_dict(contract), stamp(request)))


@router.post("/views/{view}/rebuild")
def rebuild_view(view: str, state: CurrentState) -> dict[str, Any]:
    """Build a view anew from the log and switch to it."""
    return rebuild(state.ledger, state.views, view).to_dict()


def _answer(dataset: Dataset) -> dict[str, Any]:
    return {
        "dataset": dataset.name,
        "table": f"data.{dataset.name}",
        "contract_version": dataset.contract_version,
        "contract": dataset.contract.to_dict(),
    }
