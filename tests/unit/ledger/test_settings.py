"""Settings: read once, typed, and told without their secrets."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from ledger.errors import InvalidRequestError
from ledger.settings import Settings


def test_the_customary_names_of_celery_and_opentelemetry_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CELERY_BROKER_URL", "amqp://broker//")
    monkeypatch.setenv("CELERY_RESULT_BACKEND", "mongodb://results/celery")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318")
    monkeypatch.setenv("LEDGER_CHUNK_BYTES", "1048576")
    settings = Settings()
    assert settings.broker_url.get_secret_value() == "amqp://broker//"
    assert settings.result_backend.get_secret_value() == "mongodb://results/celery"
    assert settings.otlp_endpoint == "http://collector:4318"
    assert settings.chunk_bytes == 1 << 20


def test_what_is_told_names_the_source_and_masks_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEDGER_API_KEY", "lk_very_secret")
    monkeypatch.setenv("LEDGER_DATABASE_URL", "postgresql+psycopg2://ledger:hidden@db/ledger")
    told = {row["setting"]: row for row in Settings().explained()}
    assert "secret" not in str(told["api_key"]["value"])
    assert "hidden" not in str(told)
    assert told["api_key"]["source"] == "environment"
    assert told["chunk_bytes"]["source"] == "default"
    assert all(row["meaning"] for row in told.values())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("LEDGER_CHUNK_BYTES", "0"),
        ("LEDGER_CHUNK_BYTES", "many"),
        ("LEDGER_TIME_ZONE", "Mars/Olympus"),
        ("LEDGER_FISCAL_CALENDAR", "02-29"),
        ("LEDGER_RECORD_BYTES_MAX", str(1 << 30)),
    ],
)
def test_a_setting_that_cannot_work_is_refused_at_the_start(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ValidationError):
        Settings()


def test_the_key_comes_from_its_setting_or_its_file(tmp_path: Path) -> None:
    path = tmp_path / "admin.key"
    path.write_text("lk_from_file\n")
    assert Settings(api_key_file=path).admin_key() == "lk_from_file"
    assert Settings(api_key="lk_given", api_key_file=path).admin_key() == "lk_given"
    assert Settings().admin_key() is None


@pytest.mark.parametrize("why", ["No such file", "Is a directory", "it is no text"])
def test_a_file_of_a_key_that_cannot_be_read_is_told_with_its_setting_and_why(tmp_path: Path, why: str) -> None:
    path = tmp_path / "a.key"
    if why == "Is a directory":
        path.mkdir()
    elif why == "it is no text":
        path.write_bytes(b"secret\xff")
    for name, read in (
        ("LEDGER_API_KEY", Settings(api_key_file=path).admin_key),
        ("LEDGER_SUBJECT_KEY", Settings(subject_key=None, subject_key_file=path).master_key),
    ):
        with pytest.raises(
            InvalidRequestError, match=f"{path}, which {name}_FILE names, cannot be read: {why}"
        ) as told:
            read()
        assert name in told.value.remedy
        assert "secret" not in str(told.value)


MAIL = {"smtp_url": "smtp://mail.example.com", "mail_from": "ledger@example.com", "mail_to": "anna@example.com"}


def test_mail_goes_to_each_address_of_a_list_once() -> None:
    settings = Settings(**{**MAIL, "mail_to": " anna@example.com,ben@example.com , anna@example.com,"})
    assert settings.recipients() == ["anna@example.com", "ben@example.com"]


def test_an_empty_variable_of_mail_is_one_that_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SMTP_URL", "MAIL_FROM", "MAIL_TO", "PUBLIC_URL"):
        monkeypatch.setenv(f"LEDGER_{name}", "")
    settings = Settings()
    assert (settings.smtp_url, settings.mail_from, settings.mail_to, settings.public_url) == (None, None, None, None)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"mail_from": None}, "mail_from and mail_to"),
        ({"mail_from": ""}, "mail_from and mail_to"),
        ({"mail_to": None}, "mail_from and mail_to"),
        ({"mail_to": " , "}, "mail_from and mail_to"),
        ({"mail_to": "anna"}, "no plain mail address"),
        ({"mail_to": "anna@example.com\nBcc: thief@example.com"}, "no plain mail address"),
        ({"mail_to": "anna@example.com;ben@example.com"}, "no plain mail address"),
        ({"mail_from": "Ledger <ledger@example.com>"}, "no plain mail address"),
        ({"mail_from": "l\x01@example.com"}, "no plain mail address"),
        ({"mail_from": "lédger@example.com"}, "no plain mail address"),
        ({"smtp_url": "mail.example.com:25"}, "smtp://host:port"),
        ({"smtp_url": "http://mail.example.com"}, "smtp://host:port"),
        ({"smtp_url": "smtp://"}, "smtp://host:port"),
        ({"smtp_url": "smtp://mail.example.com:99999"}, "smtp://host:port"),
        ({"smtp_url": "smtp://mail.example.com/path"}, "smtp://host:port"),
        ({"smtp_url": "smtp://user:tu#lip@mail.example.com"}, "percent-encoded"),
        ({"smtp_url": "smtp://user:tu/lip@mail.example.com"}, "percent-encoded"),
        ({"smtp_url": "smtp://user@mail.example.com"}, "both a user and a password"),
        ({"public_url": "ledger.example.com"}, "public_url must begin with"),
    ],
)
def test_mail_that_cannot_be_sent_is_refused_at_the_start(values: dict[str, str | None], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Settings(**{**MAIL, **values})


@pytest.mark.parametrize(
    "values",
    [
        {"smtp_url": "smtp://user:tulip4711@mail.example.com/path"},
        {"smtp_url": "smtp://user:tulip4711#@mail.example.com"},
        {"smtp_url": "ftp://u:tulip4711@h"},
        {"smtp_url": "ftp://h", "api_key": "tulip4711"},
        {"mail_from": None, "api_key": "tulip4711"},
    ],
)
def test_an_error_of_the_settings_tells_no_secret(values: dict[str, str | None]) -> None:
    with pytest.raises(ValidationError) as found:
        Settings(**{**MAIL, **values})
    assert "tulip" not in str(found.value) + repr(found.value)


OIDC = {"oidc_issuer": "https://login.example.com", "oidc_audience": "ledger"}


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"oidc_audience": None}, "oidc_audience"),
        ({"oidc_audience": " "}, "oidc_audience"),
        ({"oidc_issuer": "http://login.example.com"}, "https://"),
        ({"oidc_issuer": "login.example.com"}, "https://"),
        ({"oidc_jwks_url": "http://login.example.com/keys"}, "https://"),
        ({"oidc_jwks_url": "file:///etc/passwd"}, "https://"),
    ],
)
def test_a_provider_whom_nobody_could_trust_is_refused_at_the_start(values: dict[str, str | None], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Settings(**{**OIDC, **values})


def test_an_empty_variable_of_the_provider_is_one_that_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OIDC_ISSUER", "OIDC_AUDIENCE", "OIDC_JWKS_URL", "OIDC_ROLE_CLAIM", "OIDC_DATASETS_CLAIM"):
        monkeypatch.setenv(f"LEDGER_{name}", "")
    settings = Settings()
    assert (settings.oidc_issuer, settings.oidc_jwks_url, settings.oidc_datasets_claim) == (None, None, None)
    assert settings.oidc_role_claim == "roles"
