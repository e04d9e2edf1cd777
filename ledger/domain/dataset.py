"""Dataset: a named target table and the versions of its contract."""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid5

from eventsourcing.domain import CanInitAggregate

from ledger.domain.base import Aggregate, Stamp
from ledger.domain.contract import Contract, check_dataset_name

DATASETS = UUID("6f2c7a1e-5d0b-4a59-9c57-0e8d3f1b7a10")


def dataset_id(name: str) -> UUID:
    """The id of the dataset of that name: a name is one dataset for ever."""
    return uuid5(DATASETS, name)


class Dataset(Aggregate):
    """A named target table with a contract, which is versioned from 1."""

    TOPIC = "dataset"

    class Event(Aggregate.Event):
        """Something that happened to a dataset."""

    class Registered(CanInitAggregate[UUID], Event):
        """The dataset exists, with version 1 of its contract."""

        TOPIC = "dataset.registered"
        originator_topic: str
        name: str
        contract: dict[str, Any]
        contract_digest: str
        inferred_from: str | None

    class ContractChanged(Event):
        """The contract has a new version."""

        TOPIC = "dataset.contract_changed"
        contract: dict[str, Any]
        contract_digest: str
        reason: str

        def apply(self, aggregate: Dataset) -> None:
            """Add the version."""
            aggregate.contracts.append(Contract.from_dict(self.contract))

    def __init__(self, *, name: str, contract: dict[str, Any]) -> None:
        self.name = name
        self.contracts = [Contract.from_dict(contract)]

    @classmethod
    def register(cls, stamp: Stamp, *, name: str, contract: Contract, inferred_from: str | None) -> Dataset:
        """Create the dataset. `inferred_from` names the job whose file the contract was inferred from, if any."""
        check_dataset_name(name)
        return cls._create(
            cls.Registered,
            id=dataset_id(name),
            name=name,
            contract=contract.to_dict(),
            contract_digest=contract.digest(),
            inferred_from=inferred_from,
            **stamp.fields(),
        )

    def change_contract(self, stamp: Stamp, *, contract: Contract, reason: str) -> None:
        """Give the dataset a new version of its contract."""
        self.trigger_event(
            self.ContractChanged,
            contract=contract.to_dict(),
            contract_digest=contract.digest(),
            reason=reason,
            **stamp.fields(),
        )

    @property
    def contract(self) -> Contract:
        """The contract in force."""
        return self.contracts[-1]

    @property
    def contract_version(self) -> int:
        """The version of the contract in force, counted from 1."""
        return len(self.contracts)
