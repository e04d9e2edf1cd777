"""Users: who came through the identity provider, written down when they are first seen (`ledger.domain.user`)."""

from __future__ import annotations

import threading
from collections import OrderedDict

from eventsourcing.persistence import IntegrityError

from ledger.application import Ledger
from ledger.database import unavailable_as_error
from ledger.domain.base import Stamp
from ledger.domain.user import User

REMEMBERED_MAX = 10_000


class Users:
    """What this process remembers of who was seen, so that the record is asked once for each of them."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._names: OrderedDict[str, str] = OrderedDict()
        self._lock = threading.Lock()

    def see(self, user_id: str, name: str, stamp: Stamp) -> None:
        """Write down who comes, if that is not known yet.

        Raises:
            PartUnavailableError: PostgreSQL is away, and this process has not seen the user under that name before.
        """
        with self._lock:
            if self._names.get(user_id) == name:
                self._names.move_to_end(user_id)
                return
        try:
            self._write(user_id, name, stamp)
        except IntegrityError:  # another process, or thread, was the first to write it
            self._write(user_id, name, stamp)
        with self._lock:
            self._names[user_id] = name
            if len(self._names) > REMEMBERED_MAX:
                self._names.popitem(last=False)

    def _write(self, user_id: str, name: str, stamp: Stamp) -> None:
        user = self._ledger.user(user_id)
        if user is None:
            user = User.see(stamp, user_id=user_id, name=name)
        else:
            user.see_again(stamp, name=name)
        if user.pending_events:
            with unavailable_as_error():
                self._ledger.save(user)
