"""ETags: ``If-Match`` and ``If-None-Match``, refused as each provider refuses.

Microsoft.Network shows ``W/"guid"`` and names both ETags in a detail; other kinds may have words of their own
(``kinds.Conditional``). Strong and weak spellings compare alike, since clients send back what they got.
"""

from collections.abc import Mapping

from isthmus.lab.documents import Document
from isthmus.lab.errors import ArmError, Detail
from isthmus.lab.ids import ResourceId
from isthmus.lab.kinds import Conditional, Kind


def check(headers: Mapping[str, str], kind: Kind, id: ResourceId, document: Document | None) -> None:
    """Refuse a write whose conditions do not hold. Raises errors.ArmError (412)."""
    if_match, if_none_match = headers.get("if-match", "").strip(), headers.get("if-none-match", "").strip()
    if if_none_match and document is not None and _holds(if_none_match, document):
        raise kind.exists(id) if isinstance(kind, Conditional) else _exists(id, if_none_match)
    if if_match and not (document is not None and _holds(if_match, document)):
        raise kind.changed(id) if isinstance(kind, Conditional) else _changed(id, if_match, document)


def _holds(given: str, document: Document) -> bool:
    return given == "*" or document.etag.lower() in {_bare(one) for one in given.split(",")}


def _bare(etag: str) -> str:
    return etag.strip().removeprefix("W/").removeprefix("w/").strip('"').lower()


def _exists(id: ResourceId, given: str) -> ArmError:
    return _failed(
        "PreconditionFailedResourceExists", f"Resource {id} exists although if-none-match header is {given}."
    )


def _changed(id: ResourceId, given: str, document: Document | None) -> ArmError:
    if document is None:
        return _failed("PreconditionFailedResourceNotFound", f"Resource {id} does not exist in NRP data store.")
    return _failed(
        "PreconditionFailedEtagMismatch",
        f'Etag provided in if-match header {given} does not match etag W/"{document.etag}" of resource {id} '
        "in NRP data store.",
    )


def _failed(code: str, message: str) -> ArmError:
    return ArmError(412, "PreconditionFailed", "Precondition failed.", details=[Detail(code, message)])
