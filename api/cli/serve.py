"""What `ledger up` does: a whole ledger from one home folder, until Ctrl-C.

Imported only by that command, for it needs the wheels of the extra `embedded`.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Mapping
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from api.cli.client import Client, CommandError
from api.cli.load import watch
from api.cli.output import say, sentence_of
from api.embedded.environment import environment as environment_of
from api.embedded.environment import sealer_environment
from api.embedded.home import LOOPBACK, Home
from api.embedded.parts import PREFERRED_PORTS, embedded_parts, parts_needed
from api.embedded.process import Program
from api.embedded.supervisor import Supervisor
from ledger.environment import environment
from ledger.settings import Settings
from ledger.signals import set_on_signals

SAMPLE = "payments.csv"
PORT_PREFERRED = 8000


def serve(home: Path | None, port: int | None, workers: int, *, demo: bool) -> None:
    """Start everything in order, keep it running until a signal says stop, and leave nothing behind."""
    settings = Settings()
    place = Home.default(home or settings.home)
    stop = threading.Event()
    set_on_signals(stop)
    say(f"Starting the ledger in {place.path} ...")
    with Supervisor(place, stop) as supervisor:
        needed = parts_needed(environment())
        preferred = {name: PREFERRED_PORTS[name] for name in needed}
        if port is None:
            ports = place.choose_ports({"api": PORT_PREFERRED, **preferred})
        else:
            ports = {"api": _demanded(place, port), **place.choose_ports(preferred)}
        url = f"http://{LOOPBACK}:{ports['api']}"
        variables = environment_of(place, {name: ports[name] for name in needed}, environment())
        supervisor.start(embedded_parts(place, {name: ports[name] for name in needed}, environment()), ports)
        sealing = {**variables, **sealer_environment(place, environment())}
        supervisor.start(_programs(variables, sealing, url, ports["api"], workers), ports)
        if not stop.is_set():
            _announce(place, url, demo)
            supervisor.run(url)
        say("Stopping ...")
    say("Stopped. Everything is kept in " + str(place.path))


def _demanded(home: Home, port: int) -> int:
    found = home.hold_port(port)
    if port not in (0, found):
        raise CommandError(f"Port {port} is taken on {LOOPBACK}.", "Stop what uses it, or name another --port.")
    return found


def _programs(
    variables: Mapping[str, str], sealing: Mapping[str, str], url: str, port: int, workers: int
) -> list[Program]:
    """PROCESS → COMMAND: the ledger's own processes, in the order in which they start. Only one gets `sealing`."""
    python = sys.executable
    uvicorn = ["-m", "uvicorn", "api.app:app", "--host", LOOPBACK, "--port", str(port), "--no-access-log"]
    celery = ["-m", "celery", "--app", "workers.app", "worker", "--concurrency", str(workers), "--without-gossip"]
    return [
        Program("api", [python, *uvicorn], variables, lambda: _is_alive(url)),
        Program("celery", [python, *celery, "--without-mingle"], variables),
        Program("dispatcher", [python, "-m", "workers.dispatcher"], variables),
        Program("projector", [python, "-m", "projections"], variables),
        Program("sealer", [python, "-m", "ledger.sealer"], sealing),
    ]


def _is_alive(url: str) -> bool:
    try:
        with urlopen(f"{url}/livez", timeout=2) as answer:  # noqa: S310 - our own http address
            return bool(answer.status == 200)
    except OSError:
        return False


def _announce(home: Home, url: str, demo: bool) -> None:
    say("")
    say(f"The ledger is up:  {url}", "bold")
    say(f"API key:           {home.secret('admin.key')}")
    say(f"Logs:              {home.logs}")
    say("Send a file from another terminal:  ledger load FILE --wait")
    say("Stop with Ctrl-C.")
    if demo:
        threading.Thread(target=_demonstrate, args=(home, url), daemon=True).start()


def _demonstrate(home: Home, url: str) -> None:
    client = Client(url, home.secret("admin.key"))
    try:
        with as_file(files("api") / "samples" / SAMPLE) as path, path.open("rb") as source:
            [task] = client.upload(
                source,
                SAMPLE,
                size=path.stat().st_size,
                said={},
                on_progress=lambda _: None,
            )
        known = task["duplicate"]
        task = watch(client, task)
        events = client.get(f"/api/v1/jobs/{task['task_id']}/events")["events"]
    except CommandError as error:
        say(f"The demonstration did not end well: {error}", "red")
        return
    say("")
    say(
        "Demonstration: " + ("this file was received before; nothing was loaded twice." if known else "a file came in.")
    )
    say("  " + sentence_of(task))
    say("  Its story: " + " → ".join(_told(event) for event in events))
    say(f"  Read it again with:  ledger jobs events {task['task_id']}")


def _told(event: dict[str, Any]) -> str:
    kind = event["type"].removeprefix("filejob.")
    at = event["at"][11:19]
    return f"{kind} {at}"
