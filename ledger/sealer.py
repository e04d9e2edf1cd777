"""The sealer: `python -m ledger.sealer` seals what is appended, and keeps checkpoints out of the database's reach.

It signs the manifests of exports as well, since it alone can.

Rules:
1. It alone holds the private key. Any number may run: only one seals at a time (`ledger.seal`).
2. It signs nothing over a history that is not the one that it has signed before: before it begins, and before each
   checkpoint that it gives away, the newest one that is kept elsewhere has to be the beginning of what is sealed. If it
   is not, the database was restored from before or written anew, and the sealer ends with an error that says so.
3. Where checkpoints are kept may be away: sealing goes on, and the newest is kept when it is back.
"""

from __future__ import annotations

import logging
import threading
import time
from datetime import UTC, datetime
from uuid import UUID

from sqlalchemy.orm import Session

from ledger import failpoints, telemetry
from ledger.application import Ledger
from ledger.checkpoints import CheckpointStore, open_checkpoint_store
from ledger.database import LogListener, rows
from ledger.errors import ConflictError, PartUnavailableError
from ledger.failpoints import failpoint
from ledger.manifests import sign_manifests
from ledger.merkle import root
from ledger.notes import Checkpoint, PublicKey, Signer, open_note
from ledger.seal import SEAL_EVENTS_MAX, StoredNodes, seal, sealed
from ledger.seal_key import public_keys, signer
from ledger.settings import Settings
from ledger.signals import set_on_signals

log = logging.getLogger(__name__)

IDLE_SECONDS_MAX = 1.0
PAUSE_SECONDS = 1.0


class HistoryReplacedError(ConflictError):
    """What is sealed here does not continue a checkpoint that was kept elsewhere."""

    code = "history_replaced"


class Sealer:
    """Seals the log of one ledger, and gives its checkpoints away."""

    def __init__(
        self, ledger: Ledger, signing: Signer, known: list[PublicKey], store: CheckpointStore | None, settings: Settings
    ) -> None:
        self._ledger = ledger
        self._signer = signing
        self._known = known
        self._store = store
        self._settings = settings
        self._kept: Checkpoint | None = None  # the newest one that is kept elsewhere, as far as we know
        self._refused: set[UUID] = set()  # exports whose manifests are not signed

    def begin(self) -> None:
        """Look up what is kept elsewhere.

        Raises:
            HistoryReplacedError: see rule 2.
            NoteRefusedError: it is signed by nobody who is known.
            PartUnavailableError: it cannot be read now.
        """
        sizes = self._store.sizes() if self._store is not None else []
        if sizes and self._store is not None:
            self._kept = Checkpoint.parse(open_note(self._store.read(sizes[-1]), self._known)[0])
            with self._ledger.transaction() as session:
                self._check_continues(session)

    def seal(self) -> int:
        """Seal the next events: how many."""
        with self._ledger.transaction() as session:
            before, _ = sealed(session)
            made = seal(session, self._signer, self._settings.origin, datetime.now(UTC))
            failpoint("seal_written")
        failpoint("seal_committed")
        if made is None:
            return 0
        telemetry.SEALED.set(made.size)
        return made.size - before

    def sign_manifests(self) -> None:
        """Sign the manifests of exports that wait for it."""
        with self._ledger.transaction() as session:
            sign_manifests(session, self._signer, self._refused)

    def keep(self) -> bool:
        """Keep the newest checkpoint elsewhere, if there is a newer one than is kept; whether that was so.

        Raises:
            HistoryReplacedError: see rule 2.
            PartUnavailableError: it cannot be kept now.
        """
        if self._store is None:
            return False
        with self._ledger.transaction() as session:
            self._check_continues(session)
            newest = rows(session, "SELECT size, note FROM ledger.checkpoints ORDER BY size DESC LIMIT 1")
        if not newest or (self._kept is not None and self._kept.size == newest[0].size):
            return False
        note = bytes(newest[0].note)
        checkpoint = Checkpoint.parse(open_note(note, self._known)[0])
        self._store.add(newest[0].size, note)
        self._kept = checkpoint
        return True

    def run(self, stop: threading.Event) -> None:
        """Seal and keep until told to stop."""
        listener = LogListener(self._ledger.engine)
        begun, keep_at_seconds = False, 0.0
        try:
            while not stop.is_set():
                try:
                    if not begun:
                        self.begin()
                        begun = True
                    while self.seal() >= SEAL_EVENTS_MAX:
                        pass
                    self.sign_manifests()
                    if time.monotonic() >= keep_at_seconds and self._try_to_keep():
                        keep_at_seconds = time.monotonic() + self._settings.checkpoint_seconds
                    listener.wait(IDLE_SECONDS_MAX)
                    stop.wait(self._settings.seal_seconds)  # what comes in until then shares a seal
                except PartUnavailableError as error:
                    log.warning("the sealer waits: %s", error, extra={"action": "sealer_waits"})
                    stop.wait(PAUSE_SECONDS)
            if begun:
                self._try_to_keep()
        finally:
            listener.close()

    def _try_to_keep(self) -> bool:
        try:
            return self.keep()
        except PartUnavailableError as error:
            log.warning("checkpoints are not kept elsewhere: %s", error, extra={"action": "checkpoint_waits"})
            return False

    def _check_continues(self, session: Session) -> None:
        if self._kept is None:
            return
        size, _ = sealed(session)
        if size < self._kept.size:
            what = f"only {size:,} events are sealed here: the database was restored from before"
        elif root(StoredNodes(session), self._kept.size) != self._kept.root:
            what = "what is sealed here comes to another root: history was written anew"
        else:
            return
        raise HistoryReplacedError(
            f"A checkpoint over {self._kept.size:,} events is kept elsewhere, and {what}.",
            "Nothing more is sealed. Find out what happened to the database; `ledger audit verify` tells what differs.",
        )


def main() -> None:
    """Run until SIGTERM or SIGINT."""
    settings = Settings()
    telemetry.configure("sealer", settings)
    failpoints.use(settings.failpoints)
    stop = threading.Event()
    set_on_signals(stop)
    ledger = Ledger(settings)
    telemetry.instrument_engine(ledger.engine)
    ledger.prepare()
    Sealer(ledger, signer(settings), public_keys(settings), open_checkpoint_store(settings), settings).run(stop)
    telemetry.flush()


if __name__ == "__main__":
    main()
