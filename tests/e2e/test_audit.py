"""What an auditor does: prove a job, verify the record, keep checkpoints; with a server and without one."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from ledger.seal_key import new_seal_key
from tests.stack import Stack, children

DIFFERS = 9
WAIT_SECONDS_MAX = 60.0
ROWS = "".join(f"{number},{number}.50\n" for number in range(1, 200))
FILE = f"id,amount\n{ROWS}"


@pytest.fixture(scope="module")
def own(running: Callable[[dict[str, str]], AbstractContextManager[Stack]]) -> Iterator[Stack]:
    """A ledger whose record is going to be damaged."""
    with running({"LEDGER_CHECKPOINT_SECONDS": "0.1", "LEDGER_SEAL_SECONDS": "0.1"}) as stack:
        yield stack


@pytest.fixture(scope="module")
def task_id(own: Stack) -> str:
    """A job that is completed and sealed."""
    [task] = own.json("load", "-", "--dataset", "payments", "--wait", text=FILE)
    deadline = time.monotonic() + WAIT_SECONDS_MAX
    waiting = "SELECT 1 FROM ledger.stored_events WHERE id > (SELECT coalesce(max(position), 0) FROM ledger.leaves)"
    while own.sql(waiting) or not (own.home / "checkpoints").exists():
        assert time.monotonic() < deadline, "the log is not sealed"
        time.sleep(0.05)
    return str(task["task_id"])


def run_alone(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The stand-alone program, in a Python that finds nothing of the ledger."""
    command = [sys.executable, "-I", "verify_proof.py", *arguments]
    return subprocess.run(command, cwd=folder, env={}, capture_output=True, text=True, check=False)


def test_a_proof_of_a_record_is_verified_elsewhere_with_the_program_and_the_public_key_alone(
    own: Stack, task_id: str, tmp_path: Path
) -> None:
    made = own.run("audit", "prove", task_id, "--record", "17", "-o", str(tmp_path / "row.proof"))
    assert made.returncode == 0, made.stderr
    (tmp_path / "ledger.pub").write_text(own.run("audit", "key").stdout)
    (tmp_path / "sent.csv").write_text(FILE)
    found = run_alone(tmp_path, "row.proof", "ledger.pub", "sent.csv")
    assert found.returncode == 0, found.stdout
    assert "4 events of" in found.stdout
    assert "17,17.50" in found.stdout
    assert "of the file that arrived are these." in found.stdout
    (tmp_path / "sent.csv").write_text(FILE.replace("17,17.50", "17,18.50"))
    assert run_alone(tmp_path, "row.proof", "ledger.pub", "sent.csv").returncode == 1
    proof = json.loads((tmp_path / "row.proof").read_text())
    proof["record"]["bytes"] = "MTcsMTguNTAK"  # 17,18.50: believed without the file, not with it
    (tmp_path / "bent.proof").write_text(json.dumps(proof, sort_keys=True, separators=(",", ":"), ensure_ascii=False))
    (tmp_path / "sent.csv").write_text(FILE)
    found = run_alone(tmp_path, "bent.proof", "ledger.pub", "sent.csv")
    assert (found.returncode, "read otherwise in the file" in found.stdout) == (1, True)


def test_a_proof_for_another_key_or_cut_short_is_refused_by_the_command(
    own: Stack, task_id: str, tmp_path: Path
) -> None:
    proof = tmp_path / "job.proof"
    assert own.run("audit", "prove", task_id, "-o", str(proof)).returncode == 0
    assert own.run("audit", "verify", str(proof)).returncode == 0
    (tmp_path / "other.pem").write_text(new_seal_key())
    other = own.run("audit", "key", str(tmp_path / "other.pem")).stdout.strip()
    refused = own.run("audit", "verify", str(proof), "--key", other)
    assert (refused.returncode, "is not signed by" in refused.stdout) == (DIFFERS, True)
    proof.write_bytes(proof.read_bytes()[:-20])
    assert own.run("audit", "verify", str(proof)).returncode == DIFFERS
    assert own.run("audit", "verify", str(tmp_path / "none.proof")).returncode == 2


def test_what_programs_ask_for_is_json(own: Stack, task_id: str, tmp_path: Path) -> None:
    proof = tmp_path / "job.proof"
    made = own.json("audit", "prove", task_id, "--output", str(proof))
    [key] = own.json("audit", "key")["public_keys"]
    assert made == {"proof": str(proof), "program": str(tmp_path / "verify_proof.py"), "public_keys": [key]}
    held = own.json("audit", "verify", str(proof), "--key", key)
    assert (held["holds"], held["told"][0][:17]) == (True, "Proven: 4 events ")
    (tmp_path / "other.pem").write_text(new_seal_key())
    [other] = own.json("audit", "key", str(tmp_path / "other.pem"))["public_keys"]
    refused = own.run("audit", "verify", str(proof), "--key", other, "--json")
    assert (refused.returncode, json.loads(refused.stdout)["holds"]) == (DIFFERS, False)
    asked = own.json("audit", "verify", "--level", "tree", "--no-wait")
    assert (asked["kind"], asked["arguments"]) == ("verify", {"level": "tree"})


def test_a_choice_that_there_is_not_is_told_with_the_list(own: Stack, tmp_path: Path) -> None:
    for command, choices in (
        (("audit", "verify", "--level", "deep"), ("signatures", "tree", "events", "views", "archives")),
        (("audit", "export", "--format", "xml", "-o", str(tmp_path / "trail")), ("ndjson", "csv")),
        (("jobs", "list", "--status", "Lost"), ("Received", "Completed", "Archived")),
    ):
        refused = own.run(*command)
        assert (refused.returncode, [choice for choice in choices if choice not in refused.stderr]) == (2, [])


def test_what_is_no_key_is_a_mistake_of_the_command(own: Stack, task_id: str, tmp_path: Path) -> None:
    proof = tmp_path / "job.proof"
    own.json("audit", "prove", task_id, "-o", str(proof))
    assert own.run("audit", "verify", str(proof), "--key", "no+key").returncode == 2


def test_only_archives_are_sampled(own: Stack) -> None:
    assert own.run("audit", "verify", "--level", "views", "--sample", "3").returncode == 2
    with own.http() as http:
        refused = http.post("/api/v1/audit/verify", json={"level": "views", "sample": 3})
        asked = http.post("/api/v1/audit/verify", json={"level": "archives", "sample": 3}).json()
    assert (refused.status_code, "reads no archives" in refused.json()["detail"]) == (422, True)
    assert asked["arguments"] == {"level": "archives", "sample": 3}


def test_a_single_event_is_proven_and_one_that_is_not_there_is_told(own: Stack, task_id: str, tmp_path: Path) -> None:
    [(position,)] = own.sql(
        "SELECT id FROM ledger.stored_events WHERE originator_id = %s AND topic = 'filejob.completed'", task_id
    )
    proof = tmp_path / "event.proof"
    assert own.run("audit", "prove", "--event", str(position), "-o", str(proof)).returncode == 0
    verified = own.run("audit", "verify", str(proof))
    assert "filejob.completed" in verified.stdout
    missing = own.run("audit", "prove", "--event", "999999", "-o", str(tmp_path / "none.proof"))
    assert (missing.returncode, "There is no event at position 999,999" in missing.stderr) == (3, True)
    assert not (tmp_path / "none.proof").exists()
    assert own.run("audit", "prove").returncode == 2


def test_a_witness_keeps_what_continues_and_refuses_what_does_not(own: Stack, task_id: str, tmp_path: Path) -> None:
    kept, witness = tmp_path / "books.checkpoint", tmp_path / "witness.pem"
    witness.write_text(new_seal_key())
    keep = ("audit", "checkpoint", "--keep", str(kept), "--cosign", str(witness), "--name", "auditors.example")
    assert own.run(*keep).returncode == 0
    assert "\u2014 auditors.example " in kept.read_text()
    assert "It continues the one over" in own.run(*keep).stderr
    sound = kept.read_text()
    (tmp_path / "other.pem").write_text(new_seal_key())
    other = own.run("audit", "key", str(tmp_path / "other.pem")).stdout.strip()
    refused = own.run("audit", "checkpoint", "--keep", str(tmp_path / "new.checkpoint"), "--key", other)
    assert (refused.returncode, "no such key is known" in refused.stderr) == (DIFFERS, True)
    assert not (tmp_path / "new.checkpoint").exists()
    assert kept.read_text() == sound


def test_the_record_is_verified_on_request_and_without_any_server_and_a_change_is_told(
    own: Stack, task_id: str
) -> None:
    for level in ("signatures", "tree", "events", "views", "archives"):
        found = own.json("audit", "verify", "--level", level)
        assert (found["holds"], found["findings"]) == (True, [])
    [(position, version)] = own.sql(
        "SELECT id, originator_version FROM ledger.stored_events WHERE originator_id = %s AND topic = %s",
        task_id,
        "filejob.chunk_loaded",
    )
    changed = "convert_to(replace(convert_from(state, 'UTF8'), '\"rows_loaded\":199', '\"rows_loaded\":198'), 'UTF8')"
    own.sql_unguarded(f"UPDATE ledger.stored_events SET state = {changed} WHERE id = {position}")
    for found in (own.run("audit", "verify"), run_direct(own)):
        assert found.returncode == DIFFERS, found.stderr
        told = f"The event at position {position} (stream {task_id}, version {version}) has another state"
        assert told in found.stderr, found.stderr
    [(kind, result)] = own.sql(
        "SELECT topic, convert_from(state, 'UTF8')::json #> '{result,holds}' FROM ledger.stored_events "
        "WHERE topic LIKE 'operation.%%' ORDER BY id DESC LIMIT 1"
    )
    assert (kind, result) == ("operation.completed", False), "what was found is on record"


def run_direct(own: Stack) -> subprocess.CompletedProcess[str]:
    """The verifier that asks no server: it needs the database, the public key, and what is kept elsewhere."""
    settings = {
        "LEDGER_DATABASE_URL": own.database_url().replace("postgresql://", "postgresql+psycopg2://"),
        "LEDGER_SEAL_PUBLIC_KEYS": own.run("audit", "key").stdout.strip(),
        "LEDGER_CHECKPOINTS_URL": (own.home / "checkpoints").as_uri(),
    }
    environment = {name: value for name, value in own.environment.items() if not name.startswith("LEDGER_")}
    command = [sys.executable, "-m", "api.cli.main", "audit", "verify", "--direct"]
    return subprocess.run(command, env={**environment, **settings}, capture_output=True, text=True, check=False)


def test_no_process_but_the_sealer_is_told_where_the_key_is_that_seals(own: Stack) -> None:
    told = set()
    for name, pid in own.state()["pids"].items():
        for each in (pid, *children(pid)):
            try:
                variables = Path(f"/proc/{each}/environ").read_bytes().split(b"\0")
            except (FileNotFoundError, ProcessLookupError):  # it has ended since
                continue
            if any(b"seal.pem" in variable or variable.startswith(b"LEDGER_SEAL_KEY") for variable in variables):
                told.add(name)
    assert told == {"sealer"}
