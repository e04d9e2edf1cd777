"""The sealer: `python -m ledger.sealer` seals what is appended, and keeps checkpoints out of the database's reach.

It signs the manifests of exports as well, since it alone can.

Rules:
1. It alone holds the private key. Any number may run: only one seals at a time (`ledger.seal`).
2. It signs nothing that does not continue what it has signed since it runs, nor what was kept elsewhere when it began.
   If it shall, the database was restored from before or written anew, and the sealer ends with an error that says so.
   Of what it signed it remembers only the last, and that only as long as it runs: when it starts again, it knows what
   is kept elsewhere and nothing else. Without such a place it begins on whatever the database says.
3. Where checkpoints are kept may be away: sealing goes on, and the newest is kept when it is back.
4. Where hashes of the tree are missing it seals nothing, and says so until somebody has put them back.
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
from ledger.checkpoints import CheckpointStore, open_checkpoint_store, read_checkpoint
from ledger.database import LogListener
from ledger.errors import ConflictError, PartUnavailableError
from ledger.failpoints import failpoint
from ledger.manifests import sign_manifests
from ledger.merkle import ProofRefusedError, check_consistency, consistency_proof, root
from ledger.notes import Checkpoint, PublicKey, Signer
from ledger.seal import SEAL_EVENTS_MAX, StoredNodes, TreeDamagedError, newest_checkpoint, seal, sealed
from ledger.seal_key import public_keys, signer
from ledger.settings import Settings
from ledger.signals import set_on_signals

log = logging.getLogger(__name__)

IDLE_SECONDS_MAX = 1.0
PAUSE_SECONDS = 1.0
DAMAGED_PAUSE_SECONDS = 60.0


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
        self._last: Checkpoint | None = None  # what has to be continued
        self._kept_size = 0  # of the newest checkpoint that is kept elsewhere, as far as we know
        self._refused: set[UUID] = set()  # exports whose manifests are not signed

    def begin(self) -> None:
        """Look up what is kept elsewhere.

        Raises:
            HistoryReplacedError: see rule 2.
            NoteRefusedError: the newest is signed by nobody who is known, or not what its name says.
            PartUnavailableError: it cannot be read now.
        """
        store = self._store
        if store is not None and (sizes := store.sizes()):
            self._last = read_checkpoint(store, sizes[-1], self._known, self._settings.origin)
            self._kept_size = self._last.size
            with self._ledger.transaction() as session:
                self._check_continues(session, *_tree_of(session))

    def seal(self) -> int:
        """Seal the next events: how many.

        Raises:
            HistoryReplacedError: see rule 2.
            TreeDamagedError: see rule 4.
        """
        with self._ledger.transaction() as session:
            made = seal(session, self._signer, self._settings.origin, datetime.now(UTC))
            if made is not None:
                self._check_continues(session, made.checkpoint.size, made.checkpoint.root)
            failpoint("seal_written")
        failpoint("seal_committed")
        if made is None:
            return 0
        self._last = made.checkpoint
        telemetry.SEALED.set(made.checkpoint.size)
        return made.events

    def sign_manifests(self) -> None:
        """Sign the manifests of exports that wait for it."""
        with self._ledger.transaction() as session:
            sign_manifests(session, self._signer, self._refused)

    def keep(self) -> bool:
        """Keep the newest checkpoint elsewhere, if there is a newer one than is kept; whether that was so.

        Raises:
            HistoryReplacedError: see rule 2.
            TreeDamagedError: see rule 4.
            NoteRefusedError: it is signed by nobody who is known.
            PartUnavailableError: it cannot be kept now.
        """
        if self._store is None:
            return False
        with self._ledger.transaction() as session:
            self._check_continues(session, *_tree_of(session))
            size, note = newest_checkpoint(session) or (0, b"")
            if size <= self._kept_size:
                return False
            checkpoint = Checkpoint.open(note, self._known)
            self._check_continues(session, checkpoint.size, checkpoint.root)
        self._store.add(checkpoint.size, note)
        self._last, self._kept_size = checkpoint, checkpoint.size
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
                except TreeDamagedError as error:
                    _say_damaged(error)
                    stop.wait(DAMAGED_PAUSE_SECONDS)
            if begun:
                self._try_to_keep()
        finally:
            listener.close()

    def _try_to_keep(self) -> bool:
        """Keep the newest checkpoint elsewhere; whether there was one to keep, be it in vain."""
        try:
            return self.keep()
        except PartUnavailableError as error:
            log.warning("checkpoints are not kept elsewhere: %s", error, extra={"action": "checkpoint_waits"})
        except TreeDamagedError as error:
            _say_damaged(error)
        return True

    def _check_continues(self, session: Session, size: int, root_now: bytes) -> None:
        """Check that the first so many leaves, whose root that is, begin with what was signed before (rule 2)."""
        last = self._last
        if last is None:
            return
        if size < last.size:
            what = f"only {size:,} events are sealed here: the database was restored from before"
        else:
            proof = consistency_proof(StoredNodes(session), last.size, size)
            try:
                check_consistency(last.size, size, proof, last.root, root_now)
                return
            except ProofRefusedError:
                what = "what is sealed here comes to another root: history was written anew"
        raise HistoryReplacedError(
            f"A checkpoint over {last.size:,} events was signed, and {what}.",
            "Nothing more is sealed. Find out what happened to the database; `ledger audit verify` tells what differs.",
        )


def _say_damaged(error: TreeDamagedError) -> None:
    log.error("nothing is sealed: %s", error, extra={"action": error.code})


def _tree_of(session: Session) -> tuple[int, bytes]:
    """How many events are sealed, and the root over them."""
    size, _ = sealed(session)
    return size, root(StoredNodes(session), size)


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
