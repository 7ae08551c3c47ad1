"""The triggerer of an agent: a component of the control process, without a metadata query (``README.md``)."""

from isthmus.runner.triggering.component import main

__all__ = ["main"]
