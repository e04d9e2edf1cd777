"""`ledger audit`: prove what happened, verify that nobody changed it, and keep what shows that."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from api.cli.client import Client, CommandError, ExitCode
from api.cli.operation_results import verified
from api.cli.operations import result_of, tell, watched
from api.cli.options import AsJson, Wait
from api.cli.output import bars, print_json, say, whole_file
from ledger.domain.counted import counted
from ledger.errors import LedgerError
from ledger.findings import Level

if TYPE_CHECKING:
    from ledger.notes import Checkpoint, PublicKey

audit = typer.Typer(no_args_is_help=True, help="Prove what happened, and verify that nobody changed it afterwards.")

Key = Annotated[
    str | None,
    typer.Option("--key", help="The ledger's public key, or a file that holds it; by default what the server says."),
]


@audit.command()
def prove(
    job_id: Annotated[str | None, typer.Argument(help="The job.")] = None,
    record: Annotated[int | None, typer.Option(min=1, help="Prove this record of the job as well.")] = None,
    event: Annotated[int | None, typer.Option(help="Prove the one event at this position instead.")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Where the proof goes.")] = None,
    as_json: AsJson = False,
) -> None:
    """Write a proof that holds without this ledger, and beside it the program that verifies it.

    Examples:
      ledger audit prove 0b0f4f3e-6a58-4a4c-9c6c-2a1f4b7a3d51

      ledger audit prove 0b0f4f3e-6a58-4a4c-9c6c-2a1f4b7a3d51 --record 17 -o row.proof

      ledger audit prove --event 1234
    """
    if (job_id is None) == (event is None) or (record is not None and job_id is None):
        raise CommandError("Name a job, or --event with a position.", "See ledger audit prove --help.", ExitCode.USAGE)
    client = Client.found()
    proof = output or Path(f"{job_id or event}.proof")
    about = f"/api/v1/events/{event}/proof" if job_id is None else f"/api/v1/jobs/{job_id}/proof"
    _download(client, about, proof, record=record)
    program = proof.with_name("verify_proof.py")
    _download(client, "/api/v1/audit/verify_proof.py", program)
    keys = client.get("/api/v1/audit/checkpoint")["public_keys"]
    if as_json:
        print_json({"proof": str(proof), "program": str(program), "public_keys": keys})
        return
    say(f"{proof}: the proof. {program}: the program that verifies it, with Python and `cryptography` alone:")
    say(f"  python {program} {proof} {','.join(keys)}")
    say("Take the key from somebody you trust, not from whom you verify.")


@audit.command()
def verify(
    proof: Annotated[Path | None, typer.Argument(help="A proof to verify; without one, the whole record.")] = None,
    key: Key = None,
    file: Annotated[
        Path | None, typer.Option(help="The file that a proof is about, or the text that was made of it.")
    ] = None,
    level: Annotated[Level, typer.Option(help="How much is verified: each includes the one before.")] = Level.EVENTS,
    sample: Annotated[
        int | None,
        typer.Option(min=1, help="Of the level archives: read so many objects of each archive, chosen by chance."),
    ] = None,
    direct: Annotated[
        bool, typer.Option("--direct", help="Read LEDGER_DATABASE_URL here and now, without any server; needs the key.")
    ] = False,
    wait: Wait = True,
    as_json: AsJson = False,
) -> None:
    """Verify a proof, or the whole record: every event is read again and compared with what was sealed.

    Ends with 9 if something does not hold, and says which event of which stream, and which field.

    Examples:
      ledger audit verify

      ledger audit verify --level signatures

      ledger audit verify --level archives --sample 5

      ledger audit verify job.proof --key ledger.pub --file payments.csv
    """
    if sample is not None and (proof is not None or level is not Level.ARCHIVES):
        raise CommandError("Only archives are sampled.", "Give --level archives with --sample.", ExitCode.USAGE)
    if proof is not None:
        _verify_proof(proof, key, file, as_json)
    elif direct:
        tell_verified(_verify_here(level, key, as_json), as_json)
    elif key is not None:
        raise CommandError(
            "The ledger verifies itself with its own key.",
            "Give --key with a proof, or with --direct.",
            ExitCode.USAGE,
        )
    else:
        client = Client.found()
        asked = {"level": level.value} if sample is None else {"level": level.value, "sample": sample}
        operation = client.post("/api/v1/audit/verify", **asked)
        if not wait:
            tell(operation, as_json)
            return
        tell_verified(result_of(watched(client, operation, "verifying", quiet=as_json)), as_json)


@audit.command()
def checkpoint(
    keep: Annotated[
        Path | None, typer.Option(help="A file with the last one seen: the new one must continue it, and replaces it.")
    ] = None,
    key: Key = None,
    cosign: Annotated[
        Path | None, typer.Option(help="An Ed25519 key (PEM) of a witness, who signs what he keeps as well.")
    ] = None,
    name: Annotated[str, typer.Option(help="The witness's name in his signature.")] = "witness",
    as_json: AsJson = False,
) -> None:
    """Show the newest checkpoint. With --keep, be a witness: refuse one that does not continue the last one seen.

    Run it every so often from a machine of your own. Ends with 9 if history was written anew or became shorter.

    Example: ledger audit checkpoint --keep books.checkpoint --key ledger.pub
    """
    client = Client.found()
    keys = public_keys(key) if key is not None else _keys_of(client.get("/api/v1/audit/checkpoint"))
    seen = None if keep is None or not keep.exists() else _kept(keep, keys)
    try:
        answer = client.get("/api/v1/audit/checkpoint", since=0 if seen is None else seen.size)
    except CommandError as error:
        if error.exit_code != ExitCode.CONFLICT:
            raise
        raise CommandError(error.message, error.remedy, ExitCode.DIFFERS) from error
    note = _continued(answer, seen, keys)
    if keep is not None:
        with whole_file(keep) as file:
            file.write(note if cosign is None else _cosigned(note, cosign, name))
    if as_json:
        print_json(answer)
    else:
        sys.stdout.write(answer["checkpoint"])
        if seen is not None:
            say(f"It continues the one over {counted(seen.size, 'event')} that was kept.")


@audit.command()
def key(
    private: Annotated[
        Path | None, typer.Argument(help="The private key's file; by default the server is asked.")
    ] = None,
    origin: Annotated[str | None, typer.Option(help="The ledger's name; else LEDGER_ORIGIN.")] = None,
    as_json: AsJson = False,
) -> None:
    """Print the public key that proofs and checkpoints of this ledger are verified with.

    Example: ledger audit key > ledger.pub
    """
    if private is None:
        keys = Client.found().get("/api/v1/audit/checkpoint")["public_keys"]
    else:
        keys = [_key_of(private, origin)]
    if as_json:
        print_json({"public_keys": keys})
    else:
        sys.stdout.write("".join(f"{each}\n" for each in keys))


def _key_of(private: Path, origin: str | None) -> str:
    from ledger.seal_key import signer
    from ledger.settings import Settings

    settings = Settings(seal_key_file=private) if origin is None else Settings(seal_key_file=private, origin=origin)
    return str(signer(settings).public)


def tell_verified(result: dict[str, Any], as_json: bool) -> None:
    """Tell what a verification came to. Ends the command unless all was looked at and nothing was found."""
    if as_json:
        print_json(result)
    else:
        say(verified({}, result), None if result["holds"] else "red")
    if not result["holds"]:
        raise typer.Exit(ExitCode.NOT_COMPARED if result["holds"] is None else ExitCode.DIFFERS)


def _verify_here(level: Level, key: str | None, quiet: bool) -> dict[str, Any]:
    from sqlalchemy import create_engine

    from ledger.settings import Settings
    from workers.verification import verified

    settings = Settings() if key is None else Settings(seal_public_keys=",".join(map(str, public_keys(key))))
    if level.needs_ledger:
        raise CommandError(
            f"The level {level} is verified by the ledger itself.",
            "Leave --direct away, or verify events, which needs no ledger.",
            ExitCode.USAGE,
        )
    engine = create_engine(settings.database_url.get_secret_value())
    with bars(quiet=quiet, unit="events") as progress:
        show = None if progress is None else progress.add_share("verifying")
        return verified(engine, settings, level, show or (lambda position, last: None))


def _verify_proof(proof: Path, key: str | None, file: Path | None, as_json: bool) -> None:
    from ledger import verify_proof

    keys = public_keys(key) if key is not None else _keys_of(Client.found().get("/api/v1/audit/checkpoint"))
    ended, lines = verify_proof.examine(str(proof), ",".join(map(str, keys)), None if file is None else str(file))
    if ended == verify_proof.UNREADABLE:
        raise CommandError(lines[0], "Check the path.", ExitCode.USAGE)
    if as_json:
        print_json({"holds": ended == verify_proof.PROVEN, "told": lines})
    else:
        sys.stdout.write("".join(f"{line}\n" for line in lines))
    if ended == verify_proof.REFUSED:
        raise typer.Exit(ExitCode.DIFFERS)


def _kept(keep: Path, keys: list[PublicKey]) -> Checkpoint:
    """The checkpoint that a witness has kept, if the ledger's key signed it."""
    from ledger.notes import Checkpoint, NoteRefusedError

    try:
        return Checkpoint.open(keep.read_bytes(), keys)
    except NoteRefusedError as refused:
        raise CommandError(
            f"{keep} is not believed: {refused}",
            "If the ledger shows another key than before, ask who runs it what happened.",
            ExitCode.DIFFERS,
        ) from refused


def _continued(answer: dict[str, Any], seen: Checkpoint | None, keys: list[PublicKey]) -> bytes:
    """The newest checkpoint as a note, if its signature holds and it continues the one that was seen."""
    from ledger.merkle import check_consistency
    from ledger.notes import Checkpoint

    note: bytes = answer["checkpoint"].encode()
    try:
        new = Checkpoint.open(note, keys)
        if seen is not None:
            proof = [bytes.fromhex(each) for each in answer["consistency"]]
            check_consistency(seen.size, new.size, proof, seen.root, new.root)
    except (LedgerError, ValueError) as refused:
        raise CommandError(
            f"This checkpoint is not believed: {refused}",
            "Keep the one that you have, and ask who runs the ledger what happened.",
            ExitCode.DIFFERS,
        ) from refused
    return note


def _cosigned(note: bytes, witness: Path, name: str) -> bytes:
    from ledger.seal_key import signer
    from ledger.settings import Settings

    text, _, _ = note.decode().rpartition("\n\n")
    signed = signer(Settings(seal_key_file=witness, origin=name)).sign(text + "\n").decode()
    return note + signed.rpartition("\n\n")[2].encode()


def public_keys(given: str) -> list[PublicKey]:
    """The public keys that are given, with commas between, or that stand in the file that is named.

    Raises:
        CommandError: the file cannot be read, or one is no key.
    """
    from ledger.notes import NoteRefusedError, PublicKey

    try:
        text = given if "+" in given else Path(given).read_text(encoding="utf-8")
        return [PublicKey.parse(key) for key in text.replace(",", " ").split()]
    except OSError as error:
        raise CommandError(
            f"The key {given} cannot be read ({error.strerror}).", "Check the path.", ExitCode.USAGE
        ) from error
    except NoteRefusedError as error:
        raise CommandError(error.message, error.remedy, ExitCode.USAGE) from error


def _keys_of(answer: dict[str, Any]) -> list[PublicKey]:
    return [key for text in answer["public_keys"] for key in public_keys(text)]


def _download(client: Client, path: str, to: Path, **parameters: Any) -> None:
    with whole_file(to) as file:
        client.download(path, file, **parameters)
