"""What clouds refuse, as errors that say what to do.

::

    TemporaryError
    ├── BusyError                too many calls, something else at work, a fault of the cloud's own; when to come back
    ├── ChangedMeanwhileError    what was looked at is not what is there now: look again
    └── StuckOperationError      an operation did not end in time; not tried again within a run
    UnreachableError
    └── CloudUnreachableError    no answer
    RefusedError
    ├── CloudRefusedError        the cloud said no, with its own code and words
    │   └── NotPermittedError    which action, on what
    ├── SignInError              no credential, or one that is not accepted
    ├── BlockedError             a plan has blocks
    └── NoEffectError            a step is done again and again and changes nothing
    NotFoundError
    └── NotThereError            something that was named: a network, a subnet, a resource group
    ConfigError                  (of names.py) an alias, an id, a host that is none
"""

from isthmus.kit.errors import NotFoundError, RefusedError, TemporaryError, UnreachableError
from isthmus.link.planning import Block


class BusyError(TemporaryError):
    """The cloud cannot now. ``retry_after_seconds`` is its own word on when, 0 if it said none."""

    def __init__(self, summary: str, *, code: str, hint: str = "", retry_after_seconds: float = 0.0) -> None:
        super().__init__(summary, code=code, hint=hint)
        self.retry_after_seconds = retry_after_seconds


class ChangedMeanwhileError(TemporaryError):
    """Somebody else was faster."""


class StuckOperationError(TemporaryError):
    """An operation of the cloud's did not end in time. It may still end: the next run finds out."""


class CloudUnreachableError(UnreachableError):
    """The cloud does not answer."""


class CloudRefusedError(RefusedError):
    """The cloud said no. ``cloud_code`` is its own code."""

    def __init__(self, summary: str, *, code: str, hint: str = "", cloud_code: str = "") -> None:
        super().__init__(summary, code=code, hint=hint)
        self.cloud_code = cloud_code


class NotPermittedError(CloudRefusedError):
    """The credential lacks a permission: ``action`` on ``scope``, as far as the cloud names them."""

    def __init__(self, summary: str, *, hint: str, action: str = "", scope: str = "", cloud_code: str = "") -> None:
        super().__init__(summary, code="permission_missing", hint=hint, cloud_code=cloud_code)
        self.action = action
        self.scope = scope


class SignInError(RefusedError):
    """There is no credential, or it is not accepted."""


class NoEffectError(RefusedError):
    """A step is taken and taken again, and what it should change stays as it was."""


class NotThereError(NotFoundError):
    """Something that was named does not exist. ``kind`` says what: ``network``, ``subnet``, ``resource group``, ..."""

    def __init__(self, kind: str, name: str, *, hint: str) -> None:
        super().__init__(f"There is no {kind} {name}", code=f"{kind.replace(' ', '_')}_not_found", hint=hint)
        self.kind = kind
        self.name = name


class BlockedError(RefusedError):
    """Nothing was done, because something is in the way. All of it is in ``blocks``; the first gives code and hint."""

    def __init__(self, blocks: tuple[Block, ...]) -> None:
        super().__init__("; ".join(one.sentence for one in blocks), code=blocks[0].code, hint=blocks[0].hint)
        self.blocks = blocks
