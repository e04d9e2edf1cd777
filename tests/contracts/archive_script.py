"""`verify.sh`, run as an auditor runs it."""

from __future__ import annotations

import os
import subprocess
from importlib.resources import files
from pathlib import Path

from tests.archives import SIGNER
from tests.contracts.cold_places import ColdPlace
from tests.s3_servers import REGION

SCRIPT = str(files("archive") / "verify.sh")
# An auditor is not root, who may write to what is read-only.
POWERS = "-dac_override,-dac_read_search"
FUNCTIONS = Path(SCRIPT).read_text().partition("\n# 7. ")[0]  # behind them they are called
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


def missed(folder: Path, changed: list[bytes], check: str, tmp_path: Path) -> list[str]:
    """Which of some changed forms of a file the functions of the script take for the one that lies in the archive.

    Args:
        folder: the archive, which is as it was signed.
        check: what calls them, with such a form in "$changed/$number".
    """
    forms = tmp_path / "changed"
    forms.mkdir()
    for number, form in enumerate(changed):
        (forms / str(number)).write_bytes(form)
    steps = f"""
begin "$1" "$2"
changed=$3 number=0
read_key
check_note "$bucket/MANIFEST.note"
check_manifest "$bucket/MANIFEST.json"
[ ! -s "$work/wrong" ] || exit 1
in_bucket=''
while [ -f "$changed/$number" ]; do
    {check} >"$work/said"
    [ -s "$work/wrong" ] || echo "$number"
    : >"$work/wrong"
    number=$((number + 1))
done
echo "$number were tried."
"""
    ended = subprocess.run(
        ["dash", "-c", FUNCTIONS + steps, SCRIPT, str(SIGNER.public), str(folder), str(forms)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    *numbers, last = ended.stdout.splitlines()
    assert last == f"{len(changed)} were tried."
    return numbers
