"""Tags: the one thing that PATCH changes in most resources of Microsoft.Network."""

from typing import Final

from isthmus.lab.documents import Change, Document
from isthmus.lab.kinds import Json
from isthmus.lab.network import shapes

_SHAPE: Final = shapes.Record({"tags": shapes.Tags()})


def patch(change: Change, document: Document, body: Json) -> Document:
    """The document with the tags that ``body`` says, in place of those that it had; the same if it says none."""
    given = _SHAPE.read(body, "")
    return change.put(
        document.id, document.kind, {**document.body, "tags": given.get("tags", document.body.get("tags", {}))}
    )
