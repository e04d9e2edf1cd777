"""Envelopes: how a personal field stands in a stored event.

Rules:
1. An envelope is {"subject", "nonce", "sealed"}: the text under AES-256-GCM (NIST SP 800-38D) and the key of its
   subject, with a nonce of 96 bits that is used once. Bytes are base64.
2. What is authenticated besides says where the envelope stands: event, topic and field. Moved to another place it does
   not open.
3. An envelope that holds its subject alone was written after the subject's key was destroyed.
4. Only a key that is known to be destroyed makes a field read as erased. Whatever else does not open is damage: an
   envelope of another subject, one that was changed or moved, a key that is not there at all.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from eventsourcing.utils import get_topic

from ledger.domain.personal import ERASED, personal_values, with_values

FORM = "ledger envelope, form 1"
NONCE_BYTES = 12

# The keys of subjects, None for one that was destroyed.
Keys = Mapping[str, bytes | None]
AnyEvent = TypeVar("AnyEvent")


class EnvelopeDamagedError(Exception):
    """A field is not what was sealed."""


def seal_event(event: AnyEvent, keys: Keys, new_nonce: Callable[[], bytes]) -> AnyEvent:
    """A copy of an event as it is stored: its personal fields in envelopes. `keys` has those of all its subjects."""
    envelopes: dict[str, Any] = {}
    for field, subject, value in personal_values(event):
        assert isinstance(value, str), f"{field} is personal and no text"
        key = keys[subject]
        envelopes[field] = {"subject": subject}
        if key is not None:
            nonce = new_nonce()
            sealed = AESGCM(key).encrypt(nonce, value.encode(), _place(event, field, subject))
            envelopes[field] |= {"nonce": _text(nonce), "sealed": _text(sealed)}
    return with_values(event, envelopes) if envelopes else event


def open_event(event: AnyEvent, keys: Keys) -> AnyEvent:
    """An event as it is read: what its envelopes hold, or `ERASED`. What was stored without one stays as it is.

    Raises:
        EnvelopeDamagedError: a field is not what was sealed.
    """
    texts = {
        field: _opened(event, field, subject, value, keys)
        for field, subject, value in personal_values(event)
        if not isinstance(value, str)
    }
    return with_values(event, texts) if texts else event


def subjects_sealed(event: Any) -> set[str]:
    """The subjects whose keys are needed to read an event."""
    return {subject for _, subject, value in personal_values(event) if not isinstance(value, str)}


def subjects_told(event: Any) -> set[str]:
    """The subjects whose keys are needed to store an event."""
    return {subject for _, subject, _ in personal_values(event)}


def _opened(event: Any, field: str, subject: str, envelope: Any, keys: Keys) -> str:
    told = set(envelope) if isinstance(envelope, dict) else set()
    if told not in ({"subject"}, {"subject", "nonce", "sealed"}):
        raise EnvelopeDamagedError(f"its {field} is no envelope")
    if envelope["subject"] != subject:
        raise EnvelopeDamagedError(f"its {field} is about another subject")
    if subject not in keys:
        raise EnvelopeDamagedError(f"there is no key for its {field}, and none was destroyed")
    key = keys[subject]
    if key is None:
        return ERASED
    if told == {"subject"}:
        raise EnvelopeDamagedError(f"its {field} was erased, and the key of its subject is there")
    try:
        nonce, sealed = _bytes(envelope["nonce"]), _bytes(envelope["sealed"])
        return AESGCM(key).decrypt(nonce, sealed, _place(event, field, subject)).decode()
    except (InvalidTag, ValueError, TypeError):
        raise EnvelopeDamagedError(f"its {field} is not the one that was sealed") from None


def _place(event: Any, field: str, subject: str) -> bytes:
    """Where an envelope stands (rule 2)."""
    topic = get_topic(type(event))
    return json.dumps([FORM, str(event.originator_id), event.originator_version, topic, field, subject]).encode()


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _bytes(text: str) -> bytes:
    data = base64.b64decode(text, validate=True)
    if _text(data) != text:
        raise ValueError("bytes are not written as they have to be")
    return data
