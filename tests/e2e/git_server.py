"""A Git server as companies have them: repositories below one folder, over HTTPS, for who knows the password.

Git itself speaks (``git http-backend``); this listens, asks for the password, and hands over.
"""

import base64
import gzip
import os
import ssl
import subprocess
import threading
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from faults.harness.certificates import Pair


class GitServer:
    """Serves the repositories of ``folder``, read only, to ``login`` with ``password``."""

    def __init__(self, folder: Path, pair: Pair, *, login: str, password: str) -> None:
        self.login = login
        #: What who asks has to say.
        self.authorization = f"Basic {base64.b64encode(f'{login}:{password}'.encode()).decode()}"
        #: Cleared, questions wait for their answers until it is set.
        self.speaks = threading.Event()
        self.speaks.set()
        self.kept_waiting = 0
        handler = type("Handler", (_Handler,), {"server_of": self, "folder": folder})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(pair.certificate, pair.private_key)
        self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, name="git server")

    @property
    def url(self) -> str:
        return f"https://localhost:{self._server.server_port}"

    def __enter__(self) -> "GitServer":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.speaks.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    """One request: to ``git http-backend`` and back, as CGI (RFC 3875)."""

    protocol_version = "HTTP/1.1"
    server_of: GitServer
    folder: Path

    def do_GET(self) -> None:
        self._serve(b"")

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self._serve(gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def _serve(self, body: bytes) -> None:
        if not self.server_of.speaks.is_set():
            self.server_of.kept_waiting += 1
            self.server_of.speaks.wait()
        with suppress(OSError):  # who asked may have lost patience
            self._serve_at_once(body)

    def _serve_at_once(self, body: bytes) -> None:
        if self.headers.get("Authorization") != self.server_of.authorization:
            self._answer(HTTPStatus.UNAUTHORIZED, {"WWW-Authenticate": 'Basic realm="git"'}, b"")
            return
        path, _, query = self.path.partition("?")
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder),
            "GIT_PROJECT_ROOT": str(self.folder),
            "GIT_HTTP_EXPORT_ALL": "1",
            "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
            "REQUEST_METHOD": self.command,
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "CONTENT_LENGTH": str(len(body)),
        }
        done = subprocess.run(
            ["git", "http-backend"], env=environment, input=body, capture_output=True, check=True, timeout=30
        )
        head, _, content = done.stdout.partition(b"\r\n\r\n")
        headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n"))
        status = int(headers.pop("Status", "200").split()[0])
        self._answer(HTTPStatus(status), headers, content)

    def _answer(self, status: HTTPStatus, headers: dict[str, str], content: bytes) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)
