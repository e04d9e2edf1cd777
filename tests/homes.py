"""Homes in which PostgreSQL has its data folder already: to make one takes several times as long as to copy it.

The first of each test process is made as `ledger up` makes it, and so are those of the tests of the embedded parts.
"""

from __future__ import annotations

import atexit
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

from api.embedded.home import Home
from api.embedded.postgresql import PostgreSQL


def new_home(place: Path) -> Path:
    """A home that nobody has served yet, in a folder that does not exist yet."""
    assert not place.exists()
    subprocess.run(["cp", "-a", str(_first()), str(place)], check=True)  # with its owners, which Python does not copy
    return place


@cache
def _first() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="ledger-home-"))
    folder.chmod(0o755)  # whom PostgreSQL runs as has to come in
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    home = Home(folder / "home")
    with home.lock():
        PostgreSQL(home, 0).prepare()
    return home.path
