"""The projector: `python -m projections` keeps the views up to date until it is told to stop."""

from __future__ import annotations

import threading
from functools import partial

from ledger import failpoints, telemetry
from ledger.application import Ledger
from ledger.settings import Settings
from ledger.signals import set_on_signals
from projections.runner import STATUS, follow_all, run, run_trail
from projections.trail.store import TRAIL
from projections.view_store import connect


def main() -> None:
    """Run until SIGTERM or SIGINT."""
    settings = Settings()
    telemetry.configure("projector", settings)
    failpoints.use(settings.failpoints)
    stop = threading.Event()
    set_on_signals(stop)
    ledger = Ledger(settings)
    telemetry.instrument_engine(ledger.engine)
    ledger.prepare()
    database = connect(settings.views_url.get_secret_value())
    # VIEW -> what keeps it up to date.
    followers = {STATUS: partial(run, ledger, database), TRAIL: partial(run_trail, ledger)}
    follow_all(followers, stop)
    telemetry.flush()


if __name__ == "__main__":
    main()
