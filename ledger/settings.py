"""Every setting of every process, read once at the process's edge, typed and frozen.

`LEDGER_*` variables, plus the customary `CELERY_BROKER_URL`, `CELERY_RESULT_BACKEND` and OpenTelemetry's own
`OTEL_*` (which its SDK reads by itself). Units stand last in a name; a limit that depends on another is checked
here, at start.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit
from zoneinfo import ZoneInfoNotFoundError

from pydantic import AliasChoices, Field, SecretStr, ValidationInfo, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from ledger.domain.fiscal_calendar import FiscalCalendar
from ledger.errors import InvalidRequestError

MEBIBYTE = 1 << 20
ORIGIN = re.compile(r"[^\s+]{1,100}")
MAIL_ADDRESS = re.compile(r"[^\s@,;:<>()\"\\]+@[^\s@,;:<>()\"\\]+")


def is_safe_url(url: str) -> bool:
    """Whether nobody on the way can change what an address answers: https, or this very machine."""
    parts = urlsplit(url)
    return bool(parts.hostname) and (
        parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in ("127.0.0.1", "::1", "localhost"))
    )


class Settings(BaseSettings):
    """The settings of one process. `Settings()` reads the environment; tests pass values instead."""

    # Errors name the setting and not its value, which may be a secret.
    model_config = SettingsConfigDict(
        env_prefix="LEDGER_", frozen=True, extra="ignore", populate_by_name=True, hide_input_in_errors=True
    )

    home: Path | None = Field(default=None, description="The folder of an embedded ledger (`ledger up`).")
    url: str | None = Field(default=None, description="Where the CLI finds the API.")
    api_key: SecretStr | None = Field(default=None, description="The admin key; wins over `api_key_file`.")
    api_key_file: Path | None = Field(default=None, description="A file that holds the admin key.")

    subject_key: SecretStr | None = Field(default=None, description="The master key; wins over `subject_key_file`.")
    subject_key_file: Path | None = Field(
        default=None, description="A file that holds the master key, under which names are sealed in the log."
    )

    database_url: SecretStr = Field(
        default=SecretStr("postgresql+psycopg2://ledger@127.0.0.1:5432/ledger"), description="PostgreSQL."
    )
    views_url: SecretStr = Field(
        default=SecretStr("mongodb://127.0.0.1:27017/ledger"), description="MongoDB, for the status views."
    )
    blobs_url: str = Field(
        default="file:///var/lib/ledger/blobs", description="Blob store: file:///folder or s3://bucket."
    )
    broker_url: SecretStr = Field(
        default=SecretStr("amqp://guest:guest@127.0.0.1:5672//"),
        validation_alias=AliasChoices("broker_url", "CELERY_BROKER_URL"),
        description="Celery's broker.",
    )
    result_backend: SecretStr = Field(
        default=SecretStr("mongodb://127.0.0.1:27017/celery"),
        validation_alias=AliasChoices("result_backend", "CELERY_RESULT_BACKEND"),
        description="Celery's result backend, for operator tasks.",
    )

    otlp_endpoint: str | None = Field(
        default=None,
        validation_alias=AliasChoices("otlp_endpoint", "OTEL_EXPORTER_OTLP_ENDPOINT"),
        description="Where traces, metrics and logs go (OTLP over HTTP); nothing is sent without it.",
    )
    log_level: str = Field(default="INFO", description="DEBUG, INFO, WARNING or ERROR.")
    fiscal_calendar: str = Field(
        default="04-01",
        description="First day of each fiscal year, MM-DD; or the last one of years of whole weeks, such as"
        " `saturday nearest 01-31` or `saturday last 08-31`. A change of it is added: `04-01, 01-01 from 2027-01-01`.",
    )
    time_zone: str = Field(default="UTC", description="The zone that decides the day of an instant.")

    upload_bytes_max: int = Field(default=64 << 30, gt=0, description="Largest file that a door takes.")
    upload_files_max: int = Field(default=1_000, gt=0, description="Most files in one multipart upload.")
    chunk_bytes: int = Field(default=24 * MEBIBYTE, gt=0, description="Aim for the size of a chunk.")
    record_bytes_max: int = Field(default=16 * MEBIBYTE, gt=0, description="Longest record that is read.")
    scratch_folder: Path | None = Field(
        default=None, description="Where files are unpacked while they are read; the system's folder if not given."
    )
    reader_memory_bytes_max: int = Field(
        default=4096 * MEBIBYTE, gt=0, description="Most memory of the process that reads a compressed or binary file."
    )
    reader_seconds_max: float = Field(default=1_200.0, gt=0, description="Longest time that reading a file may take.")
    sample_bytes_max: int = Field(default=MEBIBYTE, gt=0, description="How much of a new dataset's file is examined.")

    lease_seconds: float = Field(
        default=30.0, gt=0, description="How long a worker may be silent before its work is due."
    )
    resend_seconds: float = Field(default=15.0, gt=0, description="How long a message may go unanswered.")
    plan_attempts_max: int = Field(default=5, gt=0, description="Attempts at a plan before the job fails for good.")
    load_attempts_max: int = Field(default=10, gt=0, description="Attempts at a chunk before the job fails for good.")
    operator_attempts_max: int = Field(
        default=10, gt=0, description="Attempts at an operation, a rebuild say, before it fails."
    )
    retry_seconds_min: float = Field(default=1.0, gt=0, description="Pause after the first attempt; it then doubles.")
    retry_seconds_max: float = Field(default=60.0, gt=0, description="Longest pause between two attempts.")
    retry_jitter_share: float = Field(
        default=0.25, ge=0, lt=1, description="How much of a pause chance may take off, so that not all come at once."
    )
    plan_seconds_max: float = Field(default=1_500.0, gt=0, description="Longest time that one plan may take.")
    load_seconds_max: float = Field(default=300.0, gt=0, description="Longest time that one chunk may take.")
    operator_seconds_max: float = Field(default=21_600.0, gt=0, description="Longest time that one operation may take.")
    published_max: int = Field(default=256, gt=0, description="Most messages that wait in one queue of the broker.")
    publish_seconds_max: float = Field(default=5.0, gt=0, description="How long the broker may take for a message.")
    broker_heartbeat_seconds: int = Field(
        default=20, gt=0, description="How often RabbitMQ and those who listen to it give a sign of life."
    )
    deliveries_max: int = Field(default=20, gt=0, description="Deliveries of one message before RabbitMQ drops it.")
    failpoints: Path | None = Field(default=None, description="A folder that arms failpoints; for tests only.")
    lock_seconds_max: float = Field(default=30.0, gt=0, description="Longest wait for a lock in the database.")

    origin: str = Field(default="ingestion-ledger", description="The name of this ledger in what it signs.")
    seal_key_file: Path | None = Field(
        default=None, description="The sealer's private key: Ed25519 as PEM. Nobody else needs it."
    )
    seal_public_keys: str | None = Field(
        default=None, description="Whose checkpoints are believed: name+id+key, with commas between."
    )
    seal_seconds: float = Field(default=1.0, gt=0, description="How long an event may wait for its seal.")
    checkpoints_url: str | None = Field(
        default=None,
        description="Where checkpoints are kept out of the database's reach: file:///folder or s3://bucket/prefix.",
    )
    checkpoint_seconds: float = Field(default=60.0, gt=0, description="How often one is kept there, at most.")
    checkpoint_days_locked: int = Field(
        default=0, ge=0, description="Days for which S3 locks a checkpoint (Object Lock, compliance); 0 for not at all."
    )
    archive_url: str | None = Field(
        default=None,
        description="Where closed years are archived: file:///folder, or s3://bucket/prefix of one with Object Lock.",
    )
    archive_kms_key: str | None = Field(
        default=None,
        description="The key of AWS KMS that archives are encrypted under, by its id or ARN; S3's own without it.",
    )
    archive_verifier_profile: str | None = Field(
        default=None,
        description="The profile of AWS with which archives are verified; those who archive are trusted without it.",
    )
    archive_class: Literal["STANDARD", "GLACIER_IR", "GLACIER", "DEEP_ARCHIVE"] = Field(
        default="DEEP_ARCHIVE", description="The storage class of what is archived, in a bucket."
    )
    archive_access_class: Literal["STANDARD", "GLACIER_IR", "GLACIER", "DEEP_ARCHIVE", "none"] = Field(
        default="GLACIER_IR", description="That of the Parquet copies that are easier to read; `none` makes none."
    )
    archive_retention_years: int = Field(
        default=10, gt=0, description="How long an archive is locked, counted from the closing of its year."
    )
    archive_lock_mode: Literal["GOVERNANCE", "COMPLIANCE"] = Field(
        default="GOVERNANCE",
        description="Whether somebody with a permission of its own may delete it before, or nobody.",
    )
    archive_run_days: int = Field(
        default=30, gt=0, description="Days for which parts are locked until the archive that they are of is complete."
    )
    archive_drop_days: int | None = Field(
        default=None,
        ge=0,
        description="Days after its archive was verified until a year drops its rows by itself; without it a second"
        " person has to approve that.",
    )
    verify_seconds: float = Field(
        default=86_400.0, ge=0, description="How often the log is verified by itself; 0 for only when asked."
    )

    archive_grace_days: int = Field(
        default=30, ge=0, description="Days after the end of a fiscal year until it is proposed to close it."
    )
    archive_closes_by_itself: bool = Field(
        default=False, description="Whether a year is then closed by itself, if nothing is in the way."
    )
    archive_part_bytes: int = Field(
        default=200_000_000, gt=0, description="Aim for so many bytes of text in a part of an archived table."
    )

    smtp_url: SecretStr | None = Field(
        default=None, description="The mail server, smtp:// or smtps://user:password@host:port; no mail without it."
    )
    mail_from: str | None = Field(default=None, description="The address that mails come from.")
    mail_to: str | None = Field(default=None, description="Who is told of failures: addresses, with commas between.")
    public_url: str | None = Field(default=None, description="Where links in mails lead: the API's address for people.")
    smtp_seconds_max: float = Field(default=10.0, gt=0, description="Longest wait for an answer of the mail server.")

    oidc_issuer: str | None = Field(
        default=None, description="The identity provider (OpenID Connect) whose tokens count; only keys do without it."
    )
    oidc_audience: str | None = Field(default=None, description="Whom tokens must be for: what the provider calls us.")
    oidc_jwks_url: str | None = Field(
        default=None, description="Where the provider's keys are; the provider is asked if it is not given."
    )
    oidc_role_claim: str = Field(default="roles", description="The claim with the roles, or the path to it (a.b).")
    oidc_datasets_claim: str | None = Field(
        default=None, description="The claim with the datasets that a user sees; all of them without this setting."
    )

    @field_validator(
        "smtp_url", "mail_from", "mail_to", "public_url",
        "oidc_issuer", "oidc_audience", "oidc_jwks_url", "oidc_role_claim", "oidc_datasets_claim",
        "seal_public_keys", "checkpoints_url", "archive_url", "archive_kms_key", "archive_verifier_profile",
        "archive_drop_days",
        mode="before",
    )  # fmt: skip
    @classmethod
    def _empty_is_not_set(cls, value: Any, info: ValidationInfo) -> Any:
        # Docker Compose passes on a variable that nobody set as an empty one.
        assert info.field_name is not None
        return cls.model_fields[info.field_name].default if isinstance(value, str) and not value.strip() else value

    @model_validator(mode="after")
    def _settings_agree(self) -> Settings:
        try:
            FiscalCalendar.parse(self.fiscal_calendar, self.time_zone)
        except ZoneInfoNotFoundError as error:
            raise ValueError(f"time_zone {self.time_zone!r} is no time zone") from error
        if self.retry_seconds_min > self.retry_seconds_max:
            raise ValueError("retry_seconds_min is above retry_seconds_max")
        if self.record_bytes_max > 256 * MEBIBYTE:
            raise ValueError("record_bytes_max above 256 MiB does not fit a worker's memory")
        if not ORIGIN.fullmatch(self.origin):
            raise ValueError("origin must be one word without + in it: it is the name of a key")
        if self.public_url is not None and not self.public_url.startswith(("http://", "https://")):
            raise ValueError("public_url must begin with http:// or https://")
        if self.oidc_issuer is not None:
            self._check_oidc(self.oidc_issuer)
        if self.smtp_url is not None:
            self._check_mail(self.smtp_url.get_secret_value())
        return self

    def recipients(self) -> list[str]:
        """The addresses of `mail_to`, each once."""
        return list(dict.fromkeys(address.strip() for address in (self.mail_to or "").split(",") if address.strip()))

    def admin_key(self) -> str | None:
        """The admin key, from the setting itself or from its file; None when neither is given.

        Raises:
            InvalidRequestError: the file cannot be read.
        """
        return _secret("LEDGER_API_KEY", self.api_key, self.api_key_file)

    def master_key(self) -> str | None:
        """The master key of the subjects' keys, likewise."""
        return _secret("LEDGER_SUBJECT_KEY", self.subject_key, self.subject_key_file)

    def explained(self) -> list[dict[str, Any]]:
        """Each setting with its value (secrets masked) and where it came from, for `ledger config`."""
        rows = []
        for name, field in type(self).model_fields.items():
            value = getattr(self, name)
            rows.append(
                {
                    "setting": name,
                    "value": "********" if isinstance(value, SecretStr) else None if value is None else str(value),
                    "source": "environment" if name in self.model_fields_set else "default",
                    "meaning": field.description,
                }
            )
        return rows

    def _check_oidc(self, issuer: str) -> None:
        if self.oidc_audience is None:
            raise ValueError("oidc_issuer needs oidc_audience: tokens for somebody else must not count here")
        for name, url in (("oidc_issuer", issuer), ("oidc_jwks_url", self.oidc_jwks_url)):
            if url is not None and not is_safe_url(url):
                raise ValueError(f"{name} must begin with https://")

    def _check_mail(self, smtp_url: str) -> None:
        # No message quotes the URL or a part of it: it may hold a password.
        if self.mail_from is None or not self.recipients():
            raise ValueError("smtp_url needs mail_from and mail_to: who sends the mails, and who gets them")
        for address in (self.mail_from, *self.recipients()):
            if not (address.isascii() and address.isprintable() and MAIL_ADDRESS.fullmatch(address)):
                raise ValueError(f"{address!r} in mail_from or mail_to is no plain mail address (name@host)")
        try:
            parts = urlsplit(smtp_url)
            understood = parts.scheme in ("smtp", "smtps") and bool(parts.hostname) and (parts.port or 1) > 0
        except ValueError:
            understood = False
        if not understood or parts.path.strip("/") or parts.query or parts.fragment:
            raise ValueError(
                "smtp_url must be smtp://host:port or smtps://host:port, with user:password@ before the host if the "
                "server asks for them, special characters in these percent-encoded"
            )
        if (parts.username is None) != (parts.password is None):
            raise ValueError("smtp_url needs both a user and a password, or neither")


def _secret(name: str, value: SecretStr | None, file: Path | None) -> str | None:
    if value is not None:
        return value.get_secret_value()
    if file is None:
        return None
    try:
        return file.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no text"
        raise InvalidRequestError(
            f"The file {file}, which {name}_FILE names, cannot be read: {why}.",
            f"Let this process read it, name another one, or give {name} itself.",
        ) from None  # the error of a text that is none quotes it
