"""How the command line talks to the server: finding it, showing the key, and telling its problems.

The server is found by LEDGER_URL, else by the home folder (LEDGER_HOME, else the default one); the key by
LEDGER_API_KEY or LEDGER_API_KEY_FILE, else in the home as well.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote

import httpx2

from api.embedded.home import Home
from ledger.environment import environment
from ledger.errors import LedgerError

READ_BYTES = 1 << 20
SECONDS_MAX = 600.0


class CommandError(LedgerError):
    """A command cannot go on. `exit_code` is what the process ends with."""

    def __init__(self, message: str, remedy: str = "", exit_code: int = 1) -> None:
        super().__init__(message, remedy)
        self.exit_code = exit_code


class ExitCode:
    """What the process ends with (documented in the README)."""

    OK = 0
    FAILED = 1
    USAGE = 2
    NOT_FOUND = 3
    NOT_ALLOWED = 4
    CONFLICT = 5
    REFUSED = 6
    JOB_FAILED = 7
    TIMEOUT = 8
    DIFFERS = 9
    UNREACHABLE = 10
    NOT_COMPARED = 11
    INTERRUPTED = 130


EXIT_CODE_OF_STATUS = {
    401: ExitCode.NOT_ALLOWED,
    403: ExitCode.NOT_ALLOWED,
    404: ExitCode.NOT_FOUND,
    409: ExitCode.CONFLICT,
    413: ExitCode.REFUSED,
    422: ExitCode.REFUSED,
    503: ExitCode.UNREACHABLE,
}


class Client:
    """Speaks to one server with one key."""

    def __init__(self, url: str, key: str) -> None:
        self.url = url
        self._http = httpx2.Client(
            base_url=url,
            headers={"Authorization": f"Bearer {key}"},
            timeout=httpx2.Timeout(SECONDS_MAX, connect=5.0),
            trust_env=False,
            verify=url.startswith("https:"),  # reading certificates takes longer than most commands
        )

    @classmethod
    def found(cls) -> Client:
        """The client for the server that the environment or the home folder name.

        It reads its four variables itself: the library behind `ledger.settings` takes longer to import than most
        commands take.

        Raises:
            CommandError: no server is known, or no key.
        """
        given = environment()
        home = Home.default(Path(given["LEDGER_HOME"]) if given.get("LEDGER_HOME") else None)
        url = given.get("LEDGER_URL") or (home.read_state() or {}).get("url")
        if not url:
            raise CommandError(
                f"No ledger is serving the home {home.path}.",
                "Start one with `ledger up`, or name a server with LEDGER_URL.",
                ExitCode.UNREACHABLE,
            )
        return cls(url, given.get("LEDGER_API_KEY") or _key_in(given.get("LEDGER_API_KEY_FILE"), home))

    def get(self, path: str, /, **parameters: Any) -> dict[str, Any]:
        """Ask for a resource."""
        return self._call("GET", path, params=_given(parameters))

    def post(self, path: str, /, **body: Any) -> dict[str, Any]:
        """Ask for something to be done."""
        return self._call("POST", path, json=body) if body else self._call("POST", path)

    def preview(self, source: BinaryIO, filename: str, said: Mapping[str, str | None]) -> dict[str, Any]:
        """What would become of a file, see `api.preview`."""
        parameters = {"filename": filename} | {name: value for name, value in said.items() if value}
        return self._call(
            "POST", "/api/v1/preview", params=parameters, content=iter(lambda: source.read(READ_BYTES), b"")
        )

    def put(self, path: str, text: bytes, media_type: str, **parameters: str) -> dict[str, Any]:
        """Put something in its place, as the text that it stands in."""
        return self._call("PUT", path, content=text, headers={"Content-Type": media_type}, params=parameters)

    def download(self, path: str, to: BinaryIO, **parameters: Any) -> None:
        """Write a resource somewhere, piece by piece."""
        self._save(path, to, lambda size: None, _given(parameters))

    def save(self, path: str, to: BinaryIO, on_progress: Callable[[int], None] | None, **parameters: str | None) -> str:
        """Write a resource somewhere, piece by piece; the path of what describes it."""
        link = self._save(path, to, on_progress or (lambda size: None), _given(parameters)).get("link", "")
        described_by = re.match(r'<(?P<path>[^>]+)>; rel="describedby"', link)
        assert described_by is not None, link
        return described_by["path"]

    def read(self, path: str) -> bytes:
        """A small resource, as it is."""
        content = io.BytesIO()
        self._save(path, content, lambda size: None, {})
        return content.getvalue()

    def _save(
        self, path: str, to: BinaryIO, on_progress: Callable[[int], None], parameters: Mapping[str, str]
    ) -> Mapping[str, str]:
        try:
            with self._http.stream("GET", path, params=parameters) as response:
                if not response.is_success:
                    response.read()
                    raise self._refused(response)
                for piece in response.iter_bytes():
                    to.write(piece)
                    on_progress(len(piece))
                return response.headers
        except httpx2.HTTPError as error:
            raise self._silent(error) from error

    def health(self) -> dict[str, Any]:
        """What `/readyz` says, be it ready or not."""
        try:
            body = self._http.get("/readyz").json()
        except (httpx2.HTTPError, ValueError) as error:
            raise self._silent(error) from error
        assert isinstance(body, dict)
        return body

    def upload(
        self,
        source: BinaryIO,
        filename: str,
        *,
        size: int | None,
        said: Mapping[str, str | None],
        on_progress: Callable[[int], None],
    ) -> list[dict[str, Any]]:
        """Send one file as a raw body, with what its sender says of it (see `api.choices`); its tasks.

        There is one, or if it is an archive one for each file in it.
        """

        def blocks() -> Iterator[bytes]:
            while block := source.read(READ_BYTES):
                yield block
                on_progress(len(block))

        parameters = {name: value for name, value in said.items() if value}
        headers = {"Content-Type": "application/octet-stream"}
        if size is not None:
            headers["Content-Length"] = str(size)
        answer = self._call(
            "PUT", f"/api/v1/files/{quote(filename, safe='')}", params=parameters, headers=headers, content=blocks()
        )
        tasks = answer["tasks"]
        assert isinstance(tasks, list)
        return tasks

    def _call(self, method: str, path: str, **arguments: Any) -> dict[str, Any]:
        try:
            response = self._http.request(method, path, **arguments)
        except httpx2.HTTPError as error:
            raise self._silent(error) from error
        if response.is_success:
            body = response.json()
            assert isinstance(body, dict)
            return body
        raise self._refused(response)

    def _silent(self, error: Exception) -> CommandError:
        return CommandError(
            f"The ledger at {self.url} does not answer ({error}).",
            "See whether `ledger up` is running; its logs are in the home's logs folder.",
            ExitCode.UNREACHABLE,
        )

    def _refused(self, response: httpx2.Response) -> CommandError:
        try:
            problem = response.json()
            message, remedy = problem["detail"], problem.get("remedy", "")
        except (ValueError, KeyError):
            message, remedy = f"{self.url} answered {response.status_code}.", "Is that a ledger?"
        return CommandError(message, remedy, EXIT_CODE_OF_STATUS.get(response.status_code, ExitCode.FAILED))


def _given(parameters: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in parameters.items() if value is not None}


def file_size(path: Path) -> int:
    """The size of a file in bytes.

    Raises:
        CommandError: it cannot be read.
    """
    try:
        return path.stat().st_size
    except OSError as error:
        raise CommandError(f"{path} cannot be read: {error.strerror}.", "Check the path.", ExitCode.USAGE) from error


def _key_in(path: str | None, home: Home) -> str:
    file = Path(path) if path else home.secrets / "admin.key"
    try:
        return file.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise CommandError(
            f"There is no API key: {file} cannot be read ({error.strerror}).",
            "Give LEDGER_API_KEY, or LEDGER_API_KEY_FILE with the file that holds it.",
            ExitCode.NOT_ALLOWED,
        ) from error
