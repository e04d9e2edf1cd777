"""`ledger keys` and `ledger whoami`: who may do what."""

from __future__ import annotations

import re
import sys
from typing import Annotated

import typer

from api.cli.client import Client, CommandError, ExitCode
from api.cli.options import AsJson, Reason
from api.cli.output import print_json, say, shown, table
from ledger.domain.access import Role

keys = typer.Typer(no_args_is_help=True, help="API keys: who may do what.")

SECONDS_OF = {"m": 60, "h": 3_600, "d": 86_400, "w": 604_800}


@keys.command("create")
def create(
    name: Annotated[str, typer.Argument(help="Whose it is.")],
    role: Annotated[Role, typer.Option(help="What it may do.")],
    dataset: Annotated[
        list[str] | None, typer.Option(help="Only this dataset; may be given more than once. By default all.")
    ] = None,
    expires_in: Annotated[str | None, typer.Option(help="Such as 12h, 90d or 52w. By default never.")] = None,
    as_json: AsJson = False,
) -> None:
    """Give out a key. It is printed this once, and nobody can find it out again.

    Example: ledger keys create "the payroll system" --role uploader --dataset payments --expires-in 90d
    """
    body = {
        "name": name,
        "role": role.value,
        "datasets": dataset or None,
        "expires_in_seconds": None if expires_in is None else _seconds(expires_in),
    }
    created = Client.found().post("/api/v1/keys", **body)
    if as_json:
        print_json(created)
        return
    say(f"Key {created['key_id']} for {created['name']}, {created['role']}. It is shown only now:")
    sys.stdout.write(created["key"] + "\n")


@keys.command("list")
def list_keys(as_json: AsJson = False) -> None:
    """List every key that was given out: whose it is, what it may do, and when it was last used.

    Example: ledger keys list
    """
    found = Client.found().get("/api/v1/keys")["keys"]
    if as_json:
        print_json(found)
        return
    table(
        ["KEY", "NAME", "ROLE", "DATASETS", "STATUS", "CREATED", "EXPIRES", "LAST USED"],
        [
            [
                key["key_id"],
                key["name"],
                key["role"],
                "all" if key["datasets"] is None else ", ".join(key["datasets"]),
                key["status"],
                key["created_at"][:19],
                shown(key["expires_at"])[:19],
                shown(key["last_used_at"])[:19],
            ]
            for key in found
        ],
    )


@keys.command("revoke")
def revoke(
    key_id: Annotated[str, typer.Argument(help="As `ledger keys list` shows it: never the key itself.")],
    reason: Reason,
    as_json: AsJson = False,
) -> None:
    """Close a key for ever. It opens nothing from now on.

    Example: ledger keys revoke 9f3c1a7be2d0 --reason "the laptop was stolen"
    """
    if key_id.startswith("lk_"):
        raise CommandError("That is a key, not its id.", "Give the part between lk_ and the next _.", ExitCode.USAGE)
    revoked = Client.found().post(f"/api/v1/keys/{key_id}/revoke", reason=reason)
    if as_json:
        print_json(revoked)
    else:
        say(f"Key {revoked['key_id']} is revoked.")


def whoami(as_json: AsJson = False) -> None:
    """Show who the server takes you for, and what you may do.

    Example: ledger whoami
    """
    found = Client.found().get("/api/v1/whoami")
    if as_json:
        print_json(found)
        return
    say(found["actor"] + (f", {found['name']}" if found["name"] else ""), "bold")
    say(f"Roles: {', '.join(found['roles']) or 'none'}")
    say(f"Datasets: {'all' if found['datasets'] is None else ', '.join(found['datasets']) or 'none'}")
    say(f"You may: {', '.join(found['permissions']) or 'nothing'}")


def _seconds(text: str) -> int:
    found = re.fullmatch(r"([0-9]{1,6})([mhdw])", text)
    if found is None or int(found[1]) == 0:
        raise CommandError(f"{text!r} is no time.", "Give a number and m, h, d or w, such as 90d.", ExitCode.USAGE)
    return int(found[1]) * SECONDS_OF[found[2]]
