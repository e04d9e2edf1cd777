"""`verify.sh`, run as an auditor runs it."""

from __future__ import annotations

import os
import subprocess
from importlib.resources import files

from tests.archives import SIGNER
from tests.contracts.cold_places import ColdPlace
from tests.s3_servers import REGION

SCRIPT = str(files("archive") / "verify.sh")
# An auditor is not root, who may write to what is read-only.
POWERS = "-dac_override,-dac_read_search"
AS_AUDITOR = ["setpriv", f"--bounding-set={POWERS}", f"--inh-caps={POWERS}"] if os.geteuid() == 0 else []


def verify_by_script(
    place: ColdPlace, prefix: str, *, content: bool = True, shell: str = "dash", key: str = str(SIGNER.public)
) -> tuple[int, list[str]]:
    """Its exit status, and what it printed."""
    if place.folder is not None:
        where = [str(place.folder / prefix)]
    else:
        where = [f"{os.environ['AWS_ENDPOINT_URL_S3']}/{place.bucket}", f"books/{prefix}"]
        where += ["content"] if content else []
    environment = {
        "PATH": os.environ["PATH"],
        "AWS_ACCESS_KEY_ID": os.environ.get("AWS_ACCESS_KEY_ID", ""),
        "AWS_SECRET_ACCESS_KEY": os.environ.get("AWS_SECRET_ACCESS_KEY", ""),
        "AWS_REGION": REGION,
    }
    ended = subprocess.run(
        [*AS_AUDITOR, shell, SCRIPT, key, *where],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return ended.returncode, (ended.stdout + ended.stderr).splitlines()
