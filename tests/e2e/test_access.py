"""Keys as people use them: made, used, limited and revoked on the command line."""

from __future__ import annotations

from pathlib import Path

from tests.stack import Stack


def test_a_key_is_made_used_and_revoked_on_the_command_line(stack: Stack, tmp_path: Path) -> None:
    path = tmp_path / "wages.csv"
    path.write_text("id,amount\n1,2.50\n")
    made = stack.run(
        "keys", "create", "the payroll system", "--role", "uploader", "--dataset", "wages", "--expires-in", "90d"
    )
    assert made.returncode == 0, made.stderr
    key = made.stdout.strip()
    key_id = key.split("_")[1]
    assert f"Key {key_id} for the payroll system, uploader." in made.stderr

    payroll = Stack(stack.home, {"LEDGER_API_KEY": key})
    [task] = payroll.json("load", str(path), "--wait")
    assert (task["status"], task["dataset"]) == ("Completed", "wages")
    [received, *_] = payroll.json("jobs", "events", task["task_id"])
    assert received["actor"] == f"key:{key_id}"
    assert payroll.json("whoami")["datasets"] == ["wages"]
    assert "You may: read_data, read_jobs, upload" in payroll.run("whoami").stderr

    for refused, told in {
        ("load", str(path), "--dataset", "salaries"): "You may use: wages",
        ("jobs", "cancel", task["task_id"]): "An admin can give you one of these roles",
        ("keys", "list"): "manage_keys",
    }.items():
        result = payroll.run(*refused)
        assert (result.returncode, told in result.stderr) == (4, True), result.stderr

    [listed] = [each for each in stack.json("keys", "list") if each["key_id"] == key_id]
    assert (listed["status"], listed["name"], listed["role"]) == ("active", "the payroll system", "uploader")
    assert listed["last_used_at"] is not None
    assert stack.run("keys", "revoke", key_id, "--reason", "replaced").stderr.strip() == f"Key {key_id} is revoked."
    result = payroll.run("jobs", "list")
    assert (result.returncode, "was revoked" in result.stderr) == (4, True)
    assert stack.run("keys", "revoke", key_id, "--reason", "again").returncode == 5
    assert stack.run("keys", "revoke", key, "--reason", "x").returncode == 2
    assert stack.run("keys", "create", "x", "--role", "viewer", "--expires-in", "soon").returncode == 2
