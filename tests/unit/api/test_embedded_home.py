"""The home of an embedded ledger, and the settings derived from it: what can be shown without a server."""

from __future__ import annotations

import json
import os
import socket
import stat
from itertools import pairwise
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from api.embedded.environment import environment
from api.embedded.home import Home, default_home, free_port, write_whole
from api.embedded.parts import MongoDBServer, Valkey, embedded_parts, parts_needed
from ledger.errors import ConflictError, InvalidRequestError


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path / "home")
    home.create()
    return home


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_root_keeps_its_ledger_where_the_database_user_can_reach_it() -> None:
    assert default_home(is_root=True) == Path("/var/lib/ledger")
    assert default_home(is_root=False) == Path.home() / ".ledger"
    assert Home.default(None).path == default_home(os.geteuid() == 0).resolve()
    assert Home.default(Path("/srv/ledger")).path == Path("/srv/ledger")


@pytest.mark.parametrize("name", ["postgresql.password", "valkey.password", "admin.key", "subjects.key"])
def test_a_secret_is_made_once_and_only_its_owner_can_read_it(home: Home, name: str) -> None:
    previous = os.umask(0)
    try:
        secret = home.secret(name)
    finally:
        os.umask(previous)
    assert len(secret) >= 43
    assert Home(home.path).secret(name) == secret
    assert mode(home.secrets) == 0o700
    assert mode(home.secrets / name) == 0o600


def test_the_admin_key_tells_what_it_is(home: Home) -> None:
    assert home.secret("admin.key").startswith("lk_")
    assert not home.secret("valkey.password").startswith("lk_")
    assert not home.secret("subjects.key").startswith("lk_")


def test_a_second_server_of_one_home_is_refused_and_told_who_serves_it(home: Home) -> None:
    with home.lock(), pytest.raises(ConflictError, match=f"{home.path}.*process {os.getpid()}"), home.lock():
        pass
    with home.lock():
        pass


def test_a_home_that_cannot_be_written_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(InvalidRequestError, match="--home"):
        Home(tmp_path / "file").create()


def test_permissions_of_a_folder_that_others_filled_stay_as_they_are(tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "report.txt").touch()
    theirs.chmod(0o750)
    Home(theirs).create()
    assert mode(theirs) == 0o750


def test_an_empty_folder_given_as_home_is_closed_to_readers(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    Home(tmp_path).create()
    assert mode(tmp_path) & 0o066 == 0


def test_who_serves_the_home_is_written_whole_and_removed(home: Home) -> None:
    assert home.read_state() is None
    home.write_state({"url": "http://127.0.0.1:8000", "pids": {"api": 1}, "ports": {"api": 8000}})
    assert home.read_state() == {"url": "http://127.0.0.1:8000", "pids": {"api": 1}, "ports": {"api": 8000}}
    home.remove_state()
    home.remove_state()
    assert home.read_state() is None


def test_a_write_that_fails_leaves_the_old_content_and_no_litter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    path = tmp_path / "ledger.json"
    write_whole(path, "old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_whole(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_taken_port_is_replaced_by_a_free_one() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert free_port(port) not in (0, port)
    assert free_port(port) == port


def test_a_home_keeps_its_ports_and_gives_each_part_its_own(home: Home) -> None:
    wanted = free_port(0)
    with home.lock():
        first = home.choose_ports({"postgresql": wanted, "mongodb": wanted})
    assert first["postgresql"] == wanted
    assert first["mongodb"] not in (0, wanted)
    with home.lock():
        again = Home(home.path).choose_ports({"postgresql": free_port(0), "mongodb": free_port(0)})
    assert again == first


def test_two_homes_that_start_together_never_choose_the_same_port(home: Home, tmp_path: Path) -> None:
    wanted = free_port(0)
    other = Home(tmp_path / "other")
    with other.lock():
        with home.lock():
            assert home.hold_port(wanted) == wanted
            assert other.hold_port(wanted) not in (0, wanted)
        assert other.hold_port(wanted) == wanted


def test_parts_that_the_operator_names_are_not_started(home: Home) -> None:
    assert parts_needed({}) == ["postgresql", "mongodb", "valkey"]
    assert parts_needed({"LEDGER_DATABASE_URL": "postgresql://db/ledger"}) == ["mongodb", "valkey"]
    assert parts_needed({"LEDGER_VIEWS_URL": "mongodb://m/ledger", "CELERY_BROKER_URL": ""}) == [
        "postgresql",
        "valkey",
    ]
    assert [part.name for part in embedded_parts(home, {"valkey": 1, "postgresql": 2}, {})] == [
        "postgresql",
        "valkey",
    ]


def test_the_ledgers_processes_are_given_every_part_of_the_home(home: Home) -> None:
    found = environment(home, {"postgresql": 1, "mongodb": 2, "valkey": 3}, {"PATH": "/bin"})
    database = urlsplit(found["LEDGER_DATABASE_URL"])
    assert (database.scheme, database.username, database.hostname, database.port, database.path) == (
        "postgresql+psycopg2",
        "ledger",
        "127.0.0.1",
        1,
        "/ledger",
    )
    assert database.password == home.secret("postgresql.password")
    assert urlsplit(found["LEDGER_VIEWS_URL"]).path == "/ledger"
    assert urlsplit(found["CELERY_RESULT_BACKEND"]).path == "/celery"
    assert urlsplit(found["CELERY_BROKER_URL"]).password == home.secret("valkey.password")
    assert found["LEDGER_HOME"] == str(home.path)
    assert Path(found["LEDGER_API_KEY_FILE"]).read_text() == home.secret("admin.key")
    assert Path(found["LEDGER_SUBJECT_KEY_FILE"]).read_text() == home.secret("subjects.key")
    assert found["LEDGER_BLOBS_URL"] == f"file://{home.path}/blobs"
    assert found["PATH"] == "/bin"


def test_a_setting_that_the_operator_made_wins_and_results_follow_the_views(home: Home) -> None:
    base = {
        "LEDGER_VIEWS_URL": "mongodb://m.example/ledger",
        "CELERY_BROKER_URL": "amqp://b.example//",
        "LEDGER_BLOBS_URL": "s3://bucket",
        "LEDGER_HOME": "/elsewhere",
    }
    found = environment(home, {"postgresql": 1}, base)
    assert found["LEDGER_VIEWS_URL"] == found["CELERY_RESULT_BACKEND"] == "mongodb://m.example/ledger"
    assert found["CELERY_BROKER_URL"] == "amqp://b.example//"
    assert found["LEDGER_BLOBS_URL"] == "s3://bucket"
    assert found["LEDGER_HOME"] == str(home.path)


def test_no_password_stands_on_a_command_line_and_the_configuration_is_private(tmp_path: Path) -> None:
    home = Home(tmp_path / 'a "quoted" home')
    home.create()
    valkey = Valkey(home, 6379)
    valkey.prepare()
    assert not any(home.secret("valkey.password") in argument for argument in valkey.command())
    configuration = home.run / "valkey.conf"
    assert mode(configuration) == 0o600
    assert 'a \\"quoted\\" home/valkey"' in configuration.read_text()


def test_the_mongodb_server_keeps_all_its_files_in_the_home(home: Home) -> None:
    server = MongoDBServer(home, 27017)
    arguments = server.command()
    named = dict(pairwise(arguments))
    assert named["--data-dir"] == str(home.path / "mongodb")
    assert named["--pid-file"].startswith(str(home.path))
    assert named["--log-file"] == os.devnull
    Path(named["--pid-file"]).write_text(json.dumps(os.getpid()))
    server.prepare()
    assert not Path(named["--pid-file"]).exists()
