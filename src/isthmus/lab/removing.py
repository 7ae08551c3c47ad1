"""The end of a lab: its process, its network, its files; whatever became of it before.

The network is found by the lab's id, which follows from its home, so nothing has to be remembered for it.
"""

import hashlib
import shutil
from pathlib import Path

from isthmus.kit.errors import PermanentError
from isthmus.lab import running
from isthmus.lab.packets import addressing, following, namespaces, requirements
from isthmus.lab.packets.addressing import LabId


def lab_id(home: Path) -> LabId:
    """What the names of a lab's namespaces tell it by."""
    return addressing.lab_id(hashlib.sha256(bytes(home.resolve())).hexdigest()[:8])


def remove(home: Path, *, keep: bool) -> list[str]:
    """Remove the lab of ``home``, all but its state if ``keep``; what was removed, in words. Raises PermanentError."""
    served = running.read(home) if home.exists() else None
    done = []
    if running.stop(home):
        done.append("ended the lab's process")
    done += _remove_network(home)
    if home.exists():
        if keep:
            (home / running.SOCKET).unlink(missing_ok=True)
            (home / running.FILE).unlink(missing_ok=True)
        elif served is not None or (home / "state").exists():
            shutil.rmtree(home)
            done.append(f"removed {home}")
    return done


def _remove_network(home: Path) -> list[str]:
    if requirements.missing():
        return []  # where packets cannot be made there are none
    lab = lab_id(home)
    there = namespaces.of_lab(lab)
    if not there:
        return []
    following.remove(lab)
    left = namespaces.of_lab(lab)
    if left:
        raise PermanentError(
            f"namespaces could not be removed: {', '.join(left)}",
            code="lab_network_left",
            hint="See what runs in them: ip netns pids NAME.",
        )
    return [f"removed {len(there)} namespaces with all that ran in them"]
