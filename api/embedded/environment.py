"""The environment of the ledger's own processes when `ledger up` runs their parts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from api.embedded.home import Home
from api.embedded.parts import MongoDBServer, Valkey
from api.embedded.postgresql import PostgreSQL
from ledger.seal_key import signer
from ledger.settings import Settings

SEAL_KEY_FILE = "LEDGER_SEAL_KEY_FILE"


def environment(home: Home, ports: Mapping[str, int], base: Mapping[str, str]) -> dict[str, str]:
    """`base`, and for every setting that it leaves open the part, folder or key of this home.

    `ports` are those of the parts that run here (`parts_needed`). A value of `base` wins over the home's,
    except for the home itself. Celery's results go where the views go. Needs the home's lock.

    The key that seals is not in it, but its public half: `sealer_environment` has it.

    Raises:
        InvalidRequestError: the key that seals is none.
    """
    ours = {
        "LEDGER_BLOBS_URL": home.blobs.as_uri(),
        "LEDGER_API_KEY_FILE": str(home.secret_path("admin.key")),
        "LEDGER_SEAL_PUBLIC_KEYS": _public_key(home, base),
        "LEDGER_CHECKPOINTS_URL": home.checkpoints.as_uri(),
        "LEDGER_ARCHIVE_URL": home.archive.as_uri(),
        "LEDGER_SUBJECT_KEY_FILE": str(home.secret_path("subjects.key")),
    }
    if "postgresql" in ports:
        ours["LEDGER_DATABASE_URL"] = PostgreSQL(home, ports["postgresql"]).url
    if "mongodb" in ports:
        mongodb = MongoDBServer(home, ports["mongodb"])
        ours["LEDGER_VIEWS_URL"] = mongodb.url
        ours["CELERY_RESULT_BACKEND"] = mongodb.url_of("celery")
    elif views_url := base.get("LEDGER_VIEWS_URL"):
        ours["CELERY_RESULT_BACKEND"] = views_url
    if "valkey" in ports:
        ours["CELERY_BROKER_URL"] = Valkey(home, ports["valkey"]).url
    given = {name: value for name, value in base.items() if value and name != SEAL_KEY_FILE}
    return {**ours, **given, "LEDGER_HOME": str(home.path)}


def sealer_environment(home: Home, base: Mapping[str, str]) -> dict[str, str]:
    """What the sealer alone is given besides: where its key is. Needs the home's lock."""
    return {SEAL_KEY_FILE: base.get(SEAL_KEY_FILE) or str(home.seal_key_path())}


def _public_key(home: Home, base: Mapping[str, str]) -> str:
    settings = Settings(seal_key_file=Path(sealer_environment(home, base)[SEAL_KEY_FILE]))
    origin = base.get("LEDGER_ORIGIN") or settings.origin
    return str(signer(settings.model_copy(update={"origin": origin})).public)
