"""Everything that the resource manager offers, put together from the kinds of all providers."""

from collections.abc import Mapping, Sequence

from isthmus.lab.arm import authenticating
from isthmus.lab.arm.engine import Page
from isthmus.lab.arm.registry import Registry
from isthmus.lab.kinds import Action, Kind, Virtual
from isthmus.lab.resources import deployments, exporting, listing, metadata, providers, subscriptions, tagging
from isthmus.lab.resources.deploying import Deployments
from isthmus.lab.resources.groups import Groups


def registry(kinds: Sequence[Kind], virtuals: Sequence[Virtual] = (), actions: Sequence[Action] = ()) -> Registry:
    """The registry of these kinds and of those of Microsoft.Resources."""
    by_name: dict[str, Kind] = {}

    def known() -> Mapping[str, Kind]:
        return by_name

    together: tuple[Kind, ...] = (Groups(known), Deployments(), *kinds)
    by_name.update((kind.name.lower(), kind) for kind in together)
    return Registry(together, virtuals, actions)


def pages() -> tuple[Page, ...]:
    """The pages beside the resources."""
    return (
        *authenticating.PAGES,
        *subscriptions.PAGES,
        *providers.PAGES,
        *listing.PAGES,
        *tagging.PAGES,
        *metadata.PAGES,
        *deployments.PAGES,
        *exporting.PAGES,
    )
