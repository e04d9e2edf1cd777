"""The projector: `python -m projections` keeps the status view up to date until it is told to stop."""

from __future__ import annotations

import threading

from ledger import failpoints, telemetry
from ledger.application import Ledger
from ledger.settings import Settings
from ledger.signals import set_on_signals
from projections.runner import run
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
    run(ledger, connect(settings.views_url.get_secret_value()), stop)
    telemetry.flush()


if __name__ == "__main__":
    main()
