"""Settings: read once, typed, and told without their secrets."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

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
        ("LEDGER_FISCAL_YEAR_START", "02-29"),
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
