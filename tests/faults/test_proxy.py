"""The fault proxy does to a connection what each of its modes says, and nothing else."""

from __future__ import annotations

import socket
import socketserver
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.faults.proxy import LOOPBACK, Direction, FaultProxy
from tests.waiting import wait_until

SECONDS_MAX = 10.0
SILENT_SECONDS = 0.3
LARGE = bytes(range(256)) * 20_000


class _Echo(socketserver.StreamRequestHandler):
    """Sends back what it gets, and ends when its client does."""

    def handle(self) -> None:
        try:
            while data := self.request.recv(1 << 16):
                self.request.sendall(data)
        except ConnectionError as error:
            self.server.ends.append(type(error).__name__)  # type: ignore[attr-defined]
        else:
            self.server.ends.append("FIN")  # type: ignore[attr-defined]


class _Upstream(socketserver.ThreadingTCPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__((LOOPBACK, 0), _Echo)
        self.ends: list[str] = []  # how each connection ended


@pytest.fixture
def upstream() -> Iterator[_Upstream]:
    with _Upstream() as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def proxy(upstream: _Upstream) -> Iterator[FaultProxy]:
    with FaultProxy(upstream.server_address[1]) as proxy:
        yield proxy


@contextmanager
def connected(proxy: FaultProxy) -> Iterator[socket.socket]:
    with socket.create_connection((LOOPBACK, proxy.port), SECONDS_MAX) as client:
        yield client


def received(client: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size and (more := client.recv(size - len(data))):
        data += more
    return data


def echoed(client: socket.socket, data: bytes) -> bytes:
    """What comes back; sent from another thread, so that neither side waits for the other's buffers."""
    sender = threading.Thread(target=client.sendall, args=(data,))
    sender.start()
    answer = received(client, len(data))
    sender.join()
    return answer


def is_silent(client: socket.socket) -> bool:
    client.settimeout(SILENT_SECONDS)
    try:
        client.recv(1)
    except TimeoutError:
        return True
    finally:
        client.settimeout(SECONDS_MAX)
    return False


def test_a_healthy_proxy_changes_nothing_in_either_direction(proxy: FaultProxy) -> None:
    with connected(proxy) as first, connected(proxy) as second:
        assert echoed(first, LARGE) == LARGE
        assert echoed(second, b"second") == b"second"
        assert proxy.connections == 2
    for direction in Direction:
        assert proxy.bytes_passed(direction) == len(LARGE) + len(b"second")
    wait_until(lambda: proxy.connections == 0, "connections are left")


def test_a_client_that_has_said_everything_still_gets_its_answer(proxy: FaultProxy) -> None:
    with connected(proxy) as client:
        client.sendall(b"all")
        client.shutdown(socket.SHUT_WR)
        assert received(client, 10) == b"all"


def test_a_delay_holds_every_byte_back_each_way_and_ends_with_healing(proxy: FaultProxy) -> None:
    with connected(proxy) as client:
        proxy.delay(0.25)
        started = time.monotonic()
        assert echoed(client, b"there and back") == b"there and back"
        assert time.monotonic() - started >= 0.5
        started = time.monotonic()
        assert echoed(client, LARGE) == LARGE
        # A long way, not a narrow one: 80 blocks one after the other would take 40 seconds.
        assert time.monotonic() - started < 20
        proxy.heal()
        assert echoed(client, b"soon") == b"soon"


def test_a_cut_ends_connections_with_fin_and_refuses_new_ones_until_healed(
    proxy: FaultProxy, upstream: _Upstream
) -> None:
    with connected(proxy) as client:
        assert echoed(client, b"before") == b"before"
        proxy.cut()
        assert client.recv(1) == b""
        wait_until(lambda: upstream.ends == ["FIN"], "the end does not arrive")
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((LOOPBACK, proxy.port), SECONDS_MAX)
        proxy.cut()
    proxy.heal()
    with connected(proxy) as client:
        assert echoed(client, b"after") == b"after"


def test_a_reset_ends_connections_with_rst_on_both_sides_and_lets_new_ones_through(
    proxy: FaultProxy, upstream: _Upstream
) -> None:
    with connected(proxy) as client:
        assert echoed(client, b"before") == b"before"
        proxy.reset()
        with pytest.raises(ConnectionResetError):
            client.recv(1)
        wait_until(lambda: upstream.ends == ["ConnectionResetError"], "the reset does not arrive")
    with connected(proxy) as client:
        assert echoed(client, b"after") == b"after"


def test_in_a_blackhole_nothing_arrives_and_nothing_is_lost(proxy: FaultProxy, upstream: _Upstream) -> None:
    with connected(proxy) as old:
        assert echoed(old, b"before") == b"before"
        proxy.blackhole()
        old.sendall(b"into the dark")
        with connected(proxy) as new:
            new.sendall(b"hello?")
            assert is_silent(old)
            assert is_silent(new)
            assert upstream.ends == []
            proxy.heal()
            assert received(old, 13) == b"into the dark"
            assert received(new, 6) == b"hello?"


def test_a_frozen_connection_can_still_be_reset(proxy: FaultProxy) -> None:
    with connected(proxy) as old:
        assert echoed(old, b"before") == b"before"
        proxy.blackhole()
        with connected(proxy) as new:
            wait_until(lambda: proxy.connections == 2, "not both are connected")
            proxy.reset()
            for client in (old, new):
                with pytest.raises(ConnectionResetError):
                    client.recv(1)


@pytest.mark.parametrize("direction", list(Direction))
def test_one_byte_is_flipped_where_it_was_asked_for_and_only_once(proxy: FaultProxy, direction: Direction) -> None:
    with connected(proxy) as client:
        assert echoed(client, b"before") == b"before"
        proxy.flip_byte(direction, 100_001)
        answer = echoed(client, LARGE)
        assert [place for place in range(len(LARGE)) if answer[place] != LARGE[place]] == [100_001]
        assert answer[100_001] == LARGE[100_001] ^ 0xFF
        assert echoed(client, LARGE) == LARGE


def test_healing_takes_back_a_flip_that_has_not_happened(proxy: FaultProxy) -> None:
    proxy.flip_byte(Direction.TO_UPSTREAM, 3)
    proxy.heal()
    with connected(proxy) as client:
        assert echoed(client, b"untouched") == b"untouched"


def test_an_upstream_that_is_not_there_is_a_reset(upstream: _Upstream) -> None:
    with socket.socket() as nobody:
        nobody.bind((LOOPBACK, 0))
        with (
            FaultProxy(nobody.getsockname()[1]) as proxy,
            pytest.raises(ConnectionResetError),  # at the first word, or before
            connected(proxy) as client,
        ):
            client.recv(1)


def test_a_client_that_resets_is_a_reset_upstream(proxy: FaultProxy, upstream: _Upstream) -> None:
    with connected(proxy) as client:
        assert echoed(client, b"before") == b"before"
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    wait_until(lambda: upstream.ends == ["ConnectionResetError"], "the reset does not arrive")
