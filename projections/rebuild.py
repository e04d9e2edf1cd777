"""Views by their names: which there are, and carrying out what an operator orders about one.

`VIEWS` is the one table from a view to how it is built anew, see `projections.views`. A new view gets its line there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from ledger.application import Ledger
from ledger.errors import InvalidRequestError
from projections.data_view import DATA, DataView
from projections.generation_view import GenerationView
from projections.runner import STATUS
from projections.status_view import StatusGenerations
from projections.trail.store import TRAIL
from projections.trail.view import TrailGenerations
from projections.views import Order, Parts, View

# VIEW -> how it is built anew. A name that ends in a dot stands for one view of each dataset.
VIEWS: dict[str, Callable[[Parts, str], View]] = {
    STATUS: lambda parts, rest: GenerationView(parts.ledger, StatusGenerations(parts.ledger, parts.database)),
    TRAIL: lambda parts, rest: GenerationView(parts.ledger, TrailGenerations(parts.ledger)),
    DATA: DataView,
}
# What an operation's arguments say beside the view -> what is done with it. Without any of them it is rebuilt.
ORDERS: dict[str, Callable[[View, Order], dict[str, Any]]] = {
    "check": lambda view, order: view.check(order),
    "roll_back": lambda view, order: view.roll_back(order),
}


def view_names(ledger: Ledger) -> list[str]:
    """The names of all views there are, in the order of `VIEWS`."""
    datasets = ledger.dataset_names()
    return [name + rest for name in VIEWS for rest in (datasets if name.endswith(".") else [""])]


def check_view(ledger: Ledger, view: str) -> None:
    """Raise InvalidRequestError if there is no view of that name."""
    name, rest = _name_and_rest(view)
    if name not in VIEWS or (name.endswith(".") and ledger.dataset(rest) is None):
        raise InvalidRequestError(
            f"There is no view {view[:80]!r}.", f"The views are: {', '.join(_shown(VIEWS))}. `ledger views` lists them."
        )


def view_of(parts: Parts, view: str) -> View:
    """The view of a name.

    Raises:
        InvalidRequestError: there is none.
    """
    check_view(parts.ledger, view)
    name, rest = _name_and_rest(view)
    return VIEWS[name](parts, rest)


def carry_out(parts: Parts, order: Order) -> dict[str, Any]:
    """Do with a view what an operator has ordered; what that came to."""
    view = view_of(parts, order.arguments["view"])
    chosen = next((name for name in ORDERS if order.arguments.get(name)), None)
    return view.rebuild(order) if chosen is None else ORDERS[chosen](view, order)


def _name_and_rest(view: str) -> tuple[str, str]:
    name, dot, rest = view.partition(".")
    return name + dot, rest


def _shown(names: Iterable[str]) -> list[str]:
    return [f"{name}DATASET" if name.endswith(".") else name for name in names]
