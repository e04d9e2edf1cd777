"""Comparing the live generation of a view with one that was built beside it, while events come in all the time.

Rules:
1. The new generation moves only when it is told to. The old one, which others move on, has reached the position of the
   new one before it is read: what it lacks by then, it lacks.
2. What the old one has otherwise, or as of behind that position, may come of events that followed. It is looked at a
   second time, alone: as it is at a later position, to which the new one then follows the log. So a comparison comes to
   an end, and to a right answer, however many events come in.
3. An old generation that says to be beyond the end of the log, or that cannot follow the log though the new one could,
   was changed by somebody. That is a difference like others.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, Protocol

from ledger.application import Ledger
from ledger.errors import PartUnavailableError
from projections.views import DIFFERENCES_TOLD_MAX, Comparison

log = logging.getLogger(__name__)

SECOND_LOOK_ITEMS = 1_000

# Where an item stands among all: the position of the log at which its story begins, and its id. No two are the same.
Place = tuple[int, str]
ITSELF: Place = (-(2**63), "")
Difference = tuple[Place, dict[str, Any]]


@dataclass(frozen=True)
class Seen:
    """Items by place, as of a position of the log; those that may tell of more than that are only named in `later`."""

    position: int
    items: Mapping[Place, Any]
    later: frozenset[Place] = frozenset()


class Generation(Protocol):
    """One generation of a view."""

    generation: int

    def position(self) -> int:
        """The position in the log that it reflects, 0 if none."""

    def apply_batch(self, *, until: int | None = None) -> int:
        """Take the next events of the log in, none after `until`; how many: 0 at the end."""

    def digest(self) -> str:
        """SHA-256 over its content."""

    def in_order(self) -> Iterator[Any]:
        """What it consists of, in the order of places."""

    def at(self, places: Sequence[Place]) -> Seen:
        """What stands at some places."""

    def drop(self) -> None:
        """Forget it."""


class Items(Protocol):
    """What generations consist of."""

    def place(self, item: Any) -> Place:
        """Where an item stands among all."""

    def line(self, item: Any) -> bytes:
        """An item as its generation's digest takes it."""

    def told(self, place: Place) -> dict[str, Any]:
        """What the item of a place is told by, which is never what it holds."""


class GenerationComparison:
    """One comparison. `events` is how many events the new generation has taken in so far."""

    def __init__(
        self, ledger: Ledger, items: Items, old: Generation, new: Generation, tell: Callable[[int, Generation], None]
    ) -> None:
        self.events = 0
        self._ledger = ledger
        self._items = items
        self._old = old
        self._new = new
        self._tell = tell

    def result(self) -> Comparison:
        """Let both follow the log to its end of now, and say how the old one differs from the new one."""
        self.follow()
        follows = self._old_follows()
        digest, digest_before = self._new.digest(), self._old.digest()
        ahead = self._old.position() > self._ledger.position()
        found = Comparison(True, digest, digest_before)
        if ahead or not follows:
            what = "beyond the end of the log" if ahead else "cannot follow the log"
            _add(found, [(ITSELF, {"view_position": self._old.position(), "what": what})])
        if digest != digest_before:
            _add(found, self._differences(follows=follows))
        if found.equal:
            found.digest_before = digest  # what it was read as tells of later events as well
        return found

    def follow(self, until: int | None = None) -> None:
        """Let the new generation follow the log up to a position, or to the end that it has now."""
        until = self._ledger.position() if until is None else until
        while count := self._new.apply_batch(until=until):
            self.events += count
            self._tell(self.events, self._new)

    def _old_follows(self) -> bool:
        try:
            while self._old.apply_batch(until=self._new.position()):
                pass
        except PartUnavailableError:
            raise
        except Exception:  # the new one took the same events in, so it is what somebody made of the old one
            log.exception("a view cannot follow the log", extra={"action": "view_cannot_follow"})
            return False
        return True

    def _differences(self, *, follows: bool) -> Iterator[Difference]:
        until, doubtful = self._new.position(), list[Place]()
        for place, there, right in self._side_by_side():
            if there is not None and right is not None and self._items.line(there) == self._items.line(right):
                continue
            may_be_later = there is not None and (right is not None or place[0] > until)
            if may_be_later and follows:
                doubtful.append(place)
            else:
                yield self._difference(place, there, right)
        for start in range(0, len(doubtful), SECOND_LOOK_ITEMS):
            yield from self._second_look(doubtful[start : start + SECOND_LOOK_ITEMS])

    def _side_by_side(self) -> Iterator[tuple[Place, Any, Any]]:
        """Each place with what the old and the new one have there, None if nothing."""
        place = self._items.place
        olds, news = self._old.in_order(), self._new.in_order()
        there, right = next(olds, None), next(news, None)
        while there is not None or right is not None:
            if right is None or (there is not None and place(there) < place(right)):
                yield place(there), there, None
                there = next(olds, None)
            elif there is None or place(right) < place(there):
                yield place(right), None, right
                right = next(news, None)
            else:
                yield place(there), there, right
                there, right = next(olds, None), next(news, None)

    def _second_look(self, places: Sequence[Place]) -> Iterator[Difference]:
        while places:
            self.follow()
            if not self._old_follows():  # any more
                yield from ((place, {**self._items.told(place), "what": "changed"}) for place in places)
                return
            seen = self._old.at(places)
            self.follow(seen.position)
            now = self._new.at(places)
            for place in places:
                there, right = seen.items.get(place), now.items.get(place)
                equal = there is not None and right is not None and self._items.line(there) == self._items.line(right)
                if place not in seen.later and not equal:
                    yield self._difference(place, there, right)
            places = sorted(seen.later)

    def _difference(self, place: Place, there: Any, right: Any) -> Difference:
        """What differs: where the new one has nothing, the old one had something when it was read first."""
        what = "unknown" if right is None else "missing" if there is None else "changed"
        return place, {**self._items.told(place), "what": what}


def _add(found: Comparison, differences: Iterator[Difference] | list[Difference]) -> None:
    first: list[Difference] = [(ITSELF, told) for told in found.differences]
    for difference in differences:
        found.equal = False
        found.differences_total += 1
        first = sorted([*first, difference], key=itemgetter(0))[:DIFFERENCES_TOLD_MAX]
    found.differences = [told for _, told in first]
