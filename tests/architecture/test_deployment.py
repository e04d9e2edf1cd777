"""The container files are checked without a container: what they start exists, fits together, and is closed by default.

The schema of Compose files is the one that `check-jsonschema` carries (https://github.com/compose-spec/compose-spec).
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
import zipfile
from fnmatch import fnmatch
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import opentelemetry.sdk.environment_variables as otel_variables
import pytest
import yaml
from pydantic import AliasChoices

from ledger.settings import Settings

ROOT = Path(__file__).parents[2]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = sorted(name for name, service in SERVICES.items() if "build" in service)
BACKING = sorted(set(SERVICES) - set(OURS))
# Where each backing service listens, as its image documents.
PORTS = {"postgresql": 5432, "mongodb": 27017, "rabbitmq": 5672, "jaeger": 4318}
INTERPOLATED = re.compile(r"\$\{(\w+)[^}]*\}")
# What may be left out: it is then an empty variable, which means that it is not set.
OPTIONAL_OF = {
    "dispatcher": {"LEDGER_SMTP_URL", "LEDGER_MAIL_FROM", "LEDGER_MAIL_TO", "LEDGER_PUBLIC_URL"},
    "api": {
        "LEDGER_OIDC_ISSUER",
        "LEDGER_OIDC_AUDIENCE",
        "LEDGER_OIDC_JWKS_URL",
        "LEDGER_OIDC_ROLE_CLAIM",
        "LEDGER_OIDC_DATASETS_CLAIM",
    },
}
OPTIONAL = set().union(*OPTIONAL_OF.values())
PINNED = re.compile(r"\d+(\.\d+)*(-[a-z]+)?")


def instructions(keyword: str) -> list[str]:
    """What stands after a keyword of the Dockerfile, continued lines joined."""
    text = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    return [line.split(maxsplit=1)[1] for line in text.splitlines() if line.startswith(f"{keyword} ")]


def copied() -> list[str]:
    """The sources of the Dockerfile that come from this folder."""
    return [source for line in instructions("COPY") if "--from" not in line for source in line.split()[:-1]]


def environment_of(service: str) -> dict[str, str]:
    """The variables of a service, with something in the place of each secret, and nothing where that is allowed."""
    given = SERVICES[service].get("environment", {})
    return {
        name: INTERPOLATED.sub(lambda found: "" if found[1] in OPTIONAL else "secret", str(value))
        for name, value in given.items()
    }


def run_as(service: str, *command: str) -> subprocess.CompletedProcess[str]:
    environment = {**environment_of(service), "PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, *command], env=environment, capture_output=True, text=True, check=False, timeout=120
    )


def test_the_compose_file_is_one() -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    result = subprocess.run(
        [*command, str(ROOT / "docker-compose.yml")], capture_output=True, text=True, check=False, timeout=120
    )
    assert result.returncode == 0, result.stdout + result.stderr


def test_every_process_of_the_ledger_is_a_service_and_every_backing_part_is_known() -> None:
    assert set(OURS) == {"api", "worker", "dispatcher", "projector", "sealer", "flower"}
    assert set(BACKING) == set(PORTS)


@pytest.mark.parametrize("service", OURS)
def test_a_command_starts_something_that_there_is(service: str) -> None:
    program, *arguments = SERVICES[service]["command"]
    if program == "python":
        assert arguments[0] == "-m"
        module = arguments[1]
        assert find_spec(module) is not None
        result = run_as(service, "-c", f"import runpy; runpy.run_module({module!r}, run_name='not_main')")
    else:
        assert program in {script.name for script in entry_points(group="console_scripts")}
        # Read with its options by the program itself, which then only prints its help.
        result = run_as(service, "-m", program, *arguments, "--help")
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_applications_that_commands_name_can_be_made_with_their_settings() -> None:
    [named] = [word for word in SERVICES["api"]["command"] if ":" in word and "." in word]
    module, _, attribute = named.partition(":")
    for service, statement in {
        "api": f"import {module} as module; assert module.{attribute}.routes",
        "worker": "from workers.app import app; app.finalize(); app.loader.import_default_modules();"
        " assert {'ledger.plan', 'ledger.load'} <= set(app.tasks)",
    }.items():
        result = run_as(service, "-c", statement)
        assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("service", OURS)
def test_a_variable_is_one_that_somebody_reads(service: str) -> None:
    known = {name for name in vars(otel_variables) if name.startswith("OTEL_")}
    for name, setting in Settings.model_fields.items():
        alias = setting.validation_alias
        others = [str(choice) for choice in alias.choices] if isinstance(alias, AliasChoices) else []
        known |= {f"LEDGER_{name.upper()}"} if not others else {choice for choice in others if choice.isupper()}
    assert set(environment_of(service)) <= known


@pytest.mark.parametrize("service", OURS)
def test_an_address_leads_to_a_service_on_the_port_that_it_has(service: str) -> None:
    found = {name: urlsplit(value) for name, value in environment_of(service).items() if "://" in value}
    hosts = {parts.hostname: parts.port for parts in found.values() if parts.scheme != "file"}
    assert hosts == PORTS
    waited_for = SERVICES[service]["depends_on"]
    assert {name: how["condition"] for name, how in waited_for.items()} == dict.fromkeys(
        set(BACKING) - {"jaeger"}, "service_healthy"
    )


@pytest.mark.parametrize("service", sorted({name for service in OURS for name in SERVICES[service]["depends_on"]}))
def test_a_part_that_others_wait_for_says_whether_it_is_healthy(service: str) -> None:
    check = SERVICES[service]["healthcheck"]
    assert check["test"][0] == "CMD"
    assert {"interval", "timeout", "retries"} <= set(check)


def test_the_doors_port_is_the_same_everywhere() -> None:
    command = SERVICES["api"]["command"]
    port = command[command.index("--port") + 1]
    [published] = SERVICES["api"]["ports"]
    assert published.endswith(f":{port}")
    assert f"http://127.0.0.1:{port}/livez" in SERVICES["api"]["healthcheck"]["test"][-1]
    assert instructions("EXPOSE") == [port]
    assert yaml.safe_load(instructions("CMD")[0]) == command
    [flower] = SERVICES["flower"]["ports"]
    assert f"--port={flower.rpartition(':')[2]}" in SERVICES["flower"]["command"]


def test_nothing_is_published_beyond_this_machine() -> None:
    published = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert published
    assert [port for port in published if not port.startswith("127.0.0.1:")] == []


def test_every_secret_must_be_chosen() -> None:
    text = (ROOT / "docker-compose.yml").read_text()
    assert set(INTERPOLATED.findall(text)) - OPTIONAL == {
        "LEDGER_API_KEY",
        "LEDGER_SEAL_PUBLIC_KEYS",
        "LEDGER_SUBJECT_KEY",
        "POSTGRES_PASSWORD",
        "RABBITMQ_PASSWORD",
    }
    for found in INTERPOLATED.finditer(text):
        assert found[0].endswith(":-}") if found[1] in OPTIONAL else ":?" in found[0], found[0]


def test_the_key_that_seals_is_given_to_the_sealer_alone() -> None:
    assert [name for name, service in SERVICES.items() if "secrets" in service] == ["sealer"]
    assert [name for name in OURS if "LEDGER_SEAL_KEY_FILE" in environment_of(name)] == ["sealer"]
    assert environment_of("sealer")["LEDGER_SEAL_KEY_FILE"] == "/run/secrets/seal_key"
    assert COMPOSE["secrets"] == {"seal_key": {"environment": "LEDGER_SEAL_KEY"}}


def test_what_may_be_left_out_is_set_up_where_it_is_used_and_nowhere_else() -> None:
    for service in OURS:
        assert OPTIONAL & set(environment_of(service)) == OPTIONAL_OF.get(service, set())


@pytest.mark.parametrize(("service", "setting"), [("dispatcher", "smtp_url"), ("api", "oidc_issuer")])
def test_what_is_left_out_is_not_set(service: str, setting: str) -> None:
    result = run_as(service, "-c", f"from ledger.settings import Settings; assert Settings().{setting} is None")
    assert result.returncode == 0, result.stderr


def test_every_image_is_pinned_to_a_version() -> None:
    bases = [line.split()[0] for line in instructions("FROM")]
    images = [service["image"] for service in SERVICES.values()]
    for image in [*bases, *images]:
        assert PINNED.match(image.partition(":")[2]), image
    assert {SERVICES[service]["image"] for service in OURS} == {f"ingestion-ledger:{PROJECT['project']['version']}"}


def test_every_volume_is_declared_and_holds_what_it_is_for() -> None:
    mounted = {volume for service in SERVICES.values() for volume in service.get("volumes", [])}
    assert {volume.partition(":")[0] for volume in mounted} == set(COMPOSE["volumes"])
    for service in OURS:
        for volume in ("blobs", "checkpoints"):
            folder = urlsplit(environment_of(service)[f"LEDGER_{volume.upper()}_URL"]).path
            mode = ":ro" if volume == "checkpoints" and service != "sealer" else ""
            assert f"{volume}:{folder}{mode}" in SERVICES[service]["volumes"]
            assert re.search(rf"mkdir --parents [^&]*{folder}\b", " ".join(instructions("RUN")))
    archive = urlsplit(environment_of("worker")["LEDGER_ARCHIVE_URL"]).path
    assert f"archive:{archive}" in SERVICES["worker"]["volumes"]
    assert re.search(rf"mkdir --parents [^&]*{archive}\b", " ".join(instructions("RUN")))


def test_the_image_holds_every_package_of_the_wheel_and_what_it_is_built_from() -> None:
    sources = copied()
    assert [source for source in sources if not (ROOT / source).exists()] == []
    packages = {source for source in sources if (ROOT / source).is_dir()}
    assert packages == set(PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"])
    project = PROJECT["project"]
    assert {"pyproject.toml", project["readme"], *project["license-files"]} <= set(sources)
    ignored = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line]
    assert [source for source in sources if any(fnmatch(source, pattern) for pattern in ignored)] == []


def test_the_wheel_holds_every_file_of_its_packages(tmp_path: Path) -> None:
    """Among them statements, a sample and the auditor's script, which are read where they are installed."""
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, capture_output=True, check=True)
    [wheel] = tmp_path.iterdir()
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
    packages = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    files = [path for package in packages for path in (ROOT / package).rglob("*") if path.is_file()]
    assert held == {str(path.relative_to(ROOT)) for path in files if path.parent.name != "__pycache__"}
    assert {"archive/verify.sh", "ledger/schema.sql", "ledger/roles.sql", "api/samples/payments.csv"} <= held


def test_what_is_installed_in_the_image_is_what_the_services_need() -> None:
    [install] = [line for line in instructions("RUN") if "pip install" in line]
    extras = re.findall(r"\.\[(.*?)\]", install)[0].split(",")
    assert set(extras) <= set(PROJECT["project"]["optional-dependencies"])
    assert "--constraint constraints.txt" in install
    assert "constraints.txt" in copied()
    needed = [*PROJECT["project"]["dependencies"], *PROJECT["project"]["optional-dependencies"]["server"]]
    names = {re.split(r"[^\w-]", requirement)[0] for requirement in needed}
    assert {"uvicorn", "celery", "flower"} <= names


def test_the_image_does_not_run_as_root() -> None:
    assert instructions("USER")[-1] not in ("root", "0")
    text = (ROOT / "Dockerfile").read_text()
    assert text.rindex("\nUSER ") < text.rindex("\nCMD ")
    assert [name for name in OURS if SERVICES[name].get("user") or SERVICES[name].get("privileged")] == []
