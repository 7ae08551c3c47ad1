"""PgBouncer in transaction mode, in front of a test's database."""

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from sqlalchemy.engine import make_url

from faults.harness import ports, waits

PROGRAM: Final = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin")
#: What a test that uses it is marked with.
NEEDED: Final = pytest.mark.skipif(PROGRAM is None, reason="needs PgBouncer: apt-get install pgbouncer")
#: Connections to the server, fewer than what comes in, so that transactions take turns at them.
SESSIONS: Final = 2

_SETTINGS: Final = """
[databases]
* = {server}

[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = {sessions}
ignore_startup_parameters = extra_float_digits
"""


@contextlib.contextmanager
def pooled(database_url: str) -> Iterator[str]:
    """The URL of the database through PgBouncer."""
    assert PROGRAM is not None
    url = make_url(database_url)
    where = {"host": url.host or url.query["host"], "port": url.port, "user": url.username, "password": url.password}
    server = " ".join(f"{name}={value}" for name, value in where.items() if value)
    port = ports.free_port()
    with tempfile.TemporaryDirectory(prefix="isthmus-test-pooler-") as directory:
        Path(directory).chmod(0o755)
        settings = Path(directory) / "pgbouncer.ini"
        settings.write_text(_SETTINGS.format(server=server, port=port, sessions=SESSIONS))
        user = 65534 if os.geteuid() == 0 else None  # it refuses to run as root
        process = subprocess.Popen([PROGRAM, "-q", str(settings)], user=user)
        try:
            waits.until("PgBouncer answers", lambda: _answers(port), seconds=10)
            through = url.set(host="127.0.0.1", port=port).difference_update_query(["host", "port"])
            yield through.render_as_string(hide_password=False)
        finally:
            process.terminate()
            process.wait(10)


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
