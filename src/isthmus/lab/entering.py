"""Running a command inside a network: in its namespace, with its resolver.

The caller's process becomes the command, so signals, terminal and exit code are the command's own. It sees the
network's ``resolv.conf`` at ``/etc/resolv.conf``, in a mount namespace of its own: the host's file is not touched.
"""

import os
from collections.abc import Sequence
from typing import Final, NoReturn

from isthmus.lab.packets import namespaces
from isthmus.lab.packets.namespaces import PacketsError

#: Binds the first argument over resolv.conf and enters the namespace that the second one is a path of.
_SCRIPT: Final = 'mount --bind "$1" /etc/resolv.conf && net="$2" && shift 2 && exec nsenter --net="$net" -- "$@"'


def run(namespace: str, command: Sequence[str]) -> NoReturn:
    """Become ``command`` in ``namespace``. Raises PacketsError."""
    words = ["unshare", "--mount", "--propagation", "private", "--", "sh", "-c", _SCRIPT, "sh"]
    words += [str(namespaces.resolv_conf(namespace)), str(namespaces.DIRECTORY / namespace), *command]
    path = os.pathsep.join((os.environ.get("PATH", os.defpath), *namespaces.SYSTEM_PATHS))
    environment = {**os.environ, "PATH": path, namespaces.VARIABLE: namespace}
    try:
        os.execvpe(words[0], words, environment)  # noqa: S606 - no shell parses what the user gave
    except OSError as error:
        raise PacketsError(
            f"cannot start {words[0]}: {error.strerror}", code="program_failed", hint="apt-get install util-linux"
        ) from None
