"""What every body on the wire has in common.

Requests refuse unknown fields, so that a typo is an error and not a silent default. Responses ignore them, so that a
newer plane can say more to an older agent. Both are frozen: a body is a value.
"""

from pydantic import BaseModel, ConfigDict


class Request(BaseModel):
    """A body that we receive: unknown fields are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Response(BaseModel):
    """A body that we send: readers ignore fields that they do not know."""

    model_config = ConfigDict(frozen=True, extra="ignore")
