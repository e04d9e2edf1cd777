"""Datasets: their contracts, declared or inferred, and how they change."""

from __future__ import annotations

import json
import subprocess
import sys
from enum import StrEnum
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request

from api.contract_text import JSON_TYPE, YAML_TYPE, YAML_TYPES, read_contract_text
from api.errors import PayloadTooLargeError
from api.state import CurrentState, caller, stamp
from ledger.domain.adjustment import check_not_of_adjustments
from ledger.domain.contract import Contract, check_dataset_name
from ledger.domain.dataset import Dataset
from ledger.domain.odcs import to_odcs
from ledger.domain.odcs_import import from_odcs, is_odcs
from ledger.domain.words import REASON_CHARACTERS_MAX
from ledger.errors import InvalidRequestError, no_such_dataset

router = APIRouter(tags=["datasets"])

PATTERNS_SECONDS_MAX = 60.0
PATTERN_SYNTAX = "Write patterns in the syntax of RE2, which has no look-around and no references back."
CONTRACT_BYTES_MAX = 16 << 20
CONTRACT_BODY = {
    "requestBody": {
        "required": True,
        "content": {media_type: {"schema": {"type": "object"}} for media_type in (JSON_TYPE, YAML_TYPE)},
    }
}


class ContractFormat(StrEnum):
    """How a contract is shown: in our words with all that is known of the dataset, or in those of a standard."""

    LEDGER = "ledger"
    ODCS = "odcs"


async def contract_text(request: Request) -> tuple[bytes, str]:
    """The body of a request that brings a contract, and its media type.

    Raises:
        InvalidRequestError: it is neither JSON nor YAML.
        PayloadTooLargeError: it is larger than contracts are.
    """
    media_type = request.headers.get("content-type", JSON_TYPE).partition(";")[0].strip().lower()
    if media_type != JSON_TYPE and media_type not in YAML_TYPES:
        raise InvalidRequestError(
            f"A contract of type {media_type[:80]!r} cannot be read.",
            f"Send it as JSON or YAML, with Content-Type: {JSON_TYPE} or {YAML_TYPE}.",
        )
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > CONTRACT_BYTES_MAX:
            raise PayloadTooLargeError(
                f"The contract is larger than {CONTRACT_BYTES_MAX >> 20} MiB.", "Allow fewer values by name."
            )
    return bytes(body), media_type


@router.get("/api/v1/datasets")
def list_datasets(request: Request, state: CurrentState) -> dict[str, Any]:
    """The names of all datasets that the caller sees."""
    return {"datasets": state.ledger.dataset_names(caller(request).datasets)}


@router.get("/api/v1/datasets/{name}")
def show_dataset(
    name: str,
    state: CurrentState,
    contract_format: Annotated[ContractFormat, Query(alias="format")] = ContractFormat.LEDGER,
) -> dict[str, Any]:
    """A dataset's contract as it is in force, and the digest of every version.

    With `format=odcs` it is the contract alone, as a document of the Open Data Contract Standard.
    """
    check_dataset_name(name)
    known = state.ledger.dataset(name)
    if known is None:
        raise no_such_dataset(name)
    if contract_format is ContractFormat.ODCS:
        return to_odcs(name, known.contract, known.contract_version)
    return _answer(known)


@router.put("/api/v1/datasets/{name}", openapi_extra=CONTRACT_BODY)
def register_dataset(
    name: str,
    request: Request,
    state: CurrentState,
    text: Annotated[tuple[bytes, str], Depends(contract_text)],
    reason: Annotated[str, Query(max_length=REASON_CHARACTERS_MAX)] = "",
) -> dict[str, Any]:
    """Declare a dataset before its first file, or give it the next version of its contract, as JSON or YAML.

    A document of the Open Data Contract Standard is read as a contract; what is not kept of it, or read in another way,
    is told in `notes`.
    """
    check_dataset_name(name)
    check_not_of_adjustments(name)
    values = read_contract_text(*text)
    notes: list[str] = []
    if is_odcs(values):
        wanted, notes = from_odcs(name, values)
    else:
        wanted = Contract.from_dict(values)
    if any(column.pattern for column in wanted.columns):
        _check_patterns(wanted)
    return {**_answer(state.ledger.register_dataset(name, wanted, stamp(request), reason=reason)), "notes": notes}


def _check_patterns(contract: Contract) -> None:
    """Have another process look at the patterns: see `projections.patterns`."""
    ended = subprocess.run(
        [sys.executable, "-m", "projections.patterns"],
        input=json.dumps(contract.to_dict()),
        capture_output=True,
        text=True,
        check=True,
        timeout=PATTERNS_SECONDS_MAX,
    )
    if ended.stdout:
        raise InvalidRequestError(ended.stdout, PATTERN_SYNTAX)


def _answer(dataset: Dataset) -> dict[str, Any]:
    return {
        "dataset": dataset.name,
        "table": f"data.{dataset.name}",
        "contract_version": dataset.contract_version,
        "contract": dataset.contract.to_dict(),
        "digests": [contract.digest() for contract in dataset.contracts],
    }
