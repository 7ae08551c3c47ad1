"""An agent whose machine's clock is wrong, while everybody else's is right.

The wall clock is one for the whole machine, so it is shifted inside the agent's own Python processes: a
``sitecustomize`` that every interpreter imports first, in the control process, the fork server and the tasks. What C
code asks the system itself (OpenSSL, for the validity of certificates) is not shifted.
"""

from pathlib import Path

_SITECUSTOMIZE = """
import ctypes, datetime, gc, time

SECONDS = {seconds}
seconds, nanoseconds, now = time.time, time.time_ns, datetime.datetime.now

def shifted(cls, tz=None):
    return now(tz) + datetime.timedelta(seconds=SECONDS)

time.time = lambda: seconds() + SECONDS
time.time_ns = lambda: nanoseconds() + SECONDS * 10**9
# A class of C's cannot be changed by assignment; the dictionary behind it can.
(members,) = gc.get_referents(datetime.datetime.__dict__)
members["now"] = classmethod(shifted)
members["utcnow"] = classmethod(lambda cls: shifted(cls, datetime.UTC).replace(tzinfo=None))
ctypes.pythonapi.PyType_Modified(ctypes.py_object(datetime.datetime))
"""


def environment(directory: Path, seconds: int) -> dict[str, str]:
    """What an agent's environment needs so that its clock is ``seconds`` ahead. ``directory`` is made."""
    directory.mkdir()
    (directory / "sitecustomize.py").write_text(_SITECUSTOMIZE.format(seconds=seconds))
    return {"PYTHONPATH": str(directory)}
