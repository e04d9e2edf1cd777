"""A real mail server in this process, which a test can make refuse, hesitate or go away."""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from typing import Any

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, LoginPassword
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

WAIT_SECONDS_MAX = 60.0


@dataclass
class Mail:
    """A mail that the server took, and for whom."""

    recipients: list[str]
    message: EmailMessage
    encrypted: bool
    user: str | None

    @property
    def message_id(self) -> str:
        return str(self.message["Message-ID"])


@dataclass
class Postbox:
    """What a mail server took, and how it answers from now on.

    An answer in `sender`, `data` or in the list of a recipient is used once, the first one first; then all is well.
    """

    port: int
    mails: list[Mail] = field(default_factory=list)
    logins: list[tuple[str, str]] = field(default_factory=list)
    sender: list[str] = field(default_factory=list)
    recipients: dict[str, list[str]] = field(default_factory=dict)
    data: list[str] = field(default_factory=list)
    farewell: str = "221 Bye"  # empty: it hangs up instead
    connections: int = 0
    hold: threading.Event | None = None
    held: threading.Event = field(default_factory=threading.Event)

    async def handle_EHLO(  # noqa: N802 - the library's names
        self, server: SMTP, session: Any, envelope: Any, hostname: str, responses: list[str]
    ) -> list[str]:
        self.connections += 1
        session.host_name = hostname
        return responses

    async def handle_MAIL(  # noqa: N802
        self, server: SMTP, session: Any, envelope: Any, address: str, options: list[str]
    ) -> str:
        if self.sender:
            return self.sender.pop(0)
        envelope.mail_from = address
        return "250 OK"

    async def handle_RCPT(  # noqa: N802
        self, server: SMTP, session: Any, envelope: Any, address: str, options: list[str]
    ) -> str:
        if self.recipients.get(address):
            return self.recipients[address].pop(0)
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: SMTP, session: Any, envelope: Any) -> str:  # noqa: N802
        if self.data:
            return self.data.pop(0)
        if self.hold is not None and not self.held.is_set():
            self.held.set()
            await asyncio.to_thread(self.hold.wait, WAIT_SECONDS_MAX)
        message = message_from_bytes(envelope.content, policy=policy.default)
        assert isinstance(message, EmailMessage)
        user = session.auth_data.decode() if session.authenticated else None
        self.mails.append(Mail(list(envelope.rcpt_tos), message, session.ssl is not None, user))
        return "250 Taken"

    async def handle_QUIT(self, server: SMTP, session: Any, envelope: Any) -> str:  # noqa: N802
        if not self.farewell:
            server.transport.abort()
        return self.farewell

    def authenticate(self, server: SMTP, session: Any, envelope: Any, mechanism: str, data: Any) -> AuthResult:
        """Let in the user `ledger`."""
        assert isinstance(data, LoginPassword)
        login, password = data.login.decode(), data.password.decode()
        self.logins.append((login, password))
        if password != "tulip/4711":
            # The worst that a server can do: repeat the password.
            return AuthResult(success=False, handled=False, message=f"535 {login} is not {password}")
        return AuthResult(success=True, auth_data=data.login)

    @contextmanager
    def serving(self, tls: ssl.SSLContext | None = None, *, at_once: bool = False) -> Iterator[None]:
        """Be reachable: with STARTTLS if there is a certificate, or encrypted at once; logins are possible."""
        options: dict[str, Any] = {"authenticator": self.authenticate, "auth_require_tls": False}
        if tls is not None:
            options["ssl_context" if at_once else "tls_context"] = tls
        controller = Controller(self, hostname="127.0.0.1", port=self.port, **options)
        controller.start()
        try:
            yield
        finally:
            controller.stop()

    def ids(self) -> list[str]:
        """The Message-ID of each mail, in the order in which they came."""
        return [mail.message_id for mail in self.mails]


def certificate(folder: Path) -> tuple[ssl.SSLContext, Path]:
    """A server's context for `localhost`, and the file that makes a client trust it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    trusted, private = folder / "certificate.pem", folder / "key.pem"
    trusted.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(trusted, private)
    return context, trusted
