"""What the packets need of the machine, checked before anything is begun."""

import os
import shutil
import sys
from pathlib import Path
from typing import Final

from isthmus.lab.packets.namespaces import SYSTEM_PATHS

#: Programs, and the Debian package that each is in.
PROGRAMS: Final = {
    "ip": "iproute2",
    "nft": "nftables",
    "dnsmasq": "dnsmasq-base",
    "nsenter": "util-linux",
    "setpriv": "util-linux",
}

#: <linux/capability.h>
_CAPABILITIES: Final = {"CAP_NET_ADMIN": 12, "CAP_SYS_ADMIN": 21}


def missing() -> list[str]:
    """What is missing, each with what to do about it; empty if packets can flow here."""
    if sys.platform != "linux":
        return [f"Linux is needed for network namespaces; this is {sys.platform}"]
    found = []
    if os.geteuid() != 0:
        found.append("root is needed for network namespaces: start it as root (sudo)")
    elif lacking := [name for name, number in _CAPABILITIES.items() if not _capabilities() >> number & 1]:
        found.append(f"root lacks {' and '.join(lacking)} here: a container has to be given it (docker run --cap-add)")
    found += [
        f"{' and '.join(programs)} is missing: apt-get install {package}"
        for package, programs in packages_missing().items()
    ]
    return found


def packages_missing() -> dict[str, list[str]]:
    """The Debian packages that have to be installed, each with the programs that are missing."""
    packages: dict[str, list[str]] = {}
    for program, package in PROGRAMS.items():
        if shutil.which(program, path=_path()) is None:
            packages.setdefault(package, []).append(program)
    return packages


def _path() -> str:
    """Where programs are looked for: a user's PATH often lacks what root's has."""
    return os.pathsep.join((os.environ.get("PATH", os.defpath), *SYSTEM_PATHS))


def _capabilities() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return int(line.split()[1], 16)
    return 0
