"""The key that seals: made once, kept by the sealer alone; everybody else needs its public half.

The form of the private key is PEM (PKCS 8), as `openssl genpkey -algorithm ed25519` writes it.
"""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from ledger.errors import InvalidRequestError
from ledger.notes import PublicKey, Signer
from ledger.settings import Settings

HOW_TO_MAKE_ONE = "Make one with: openssl genpkey -algorithm ed25519 -out seal.key"


def new_seal_key() -> str:
    """A new private key, as PEM."""
    return Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def signer(settings: Settings) -> Signer:
    """The signer of this ledger's checkpoints.

    Raises:
        InvalidRequestError: there is no key, or it is no Ed25519 key.
    """
    if settings.seal_key_file is None:
        raise InvalidRequestError(
            "No key is set that seals the log.",
            f"Give LEDGER_SEAL_KEY_FILE to the sealer, LEDGER_SEAL_PUBLIC_KEYS to all others. {HOW_TO_MAKE_ONE}",
        )
    try:
        key = load_pem_private_key(settings.seal_key_file.read_bytes(), password=None)
    except (OSError, ValueError, TypeError) as error:
        raise InvalidRequestError(
            f"The key that seals, {settings.seal_key_file}, cannot be read ({type(error).__name__}).", HOW_TO_MAKE_ONE
        ) from None
    if not isinstance(key, Ed25519PrivateKey):
        raise InvalidRequestError(f"{settings.seal_key_file} is no Ed25519 key.", HOW_TO_MAKE_ONE)
    return Signer(settings.origin, key)


def public_keys(settings: Settings) -> list[PublicKey]:
    """Whose checkpoints are believed: the keys that the settings name, else that of the private key.

    Raises:
        InvalidRequestError: there is neither.
        NoteRefusedError: a key is none.
    """
    if settings.seal_public_keys:
        return [PublicKey.parse(text) for text in settings.seal_public_keys.split(",")]
    return [signer(settings).public]
