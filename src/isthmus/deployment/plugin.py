"""The entry *Remote Agents* in Airflow's own navigation, and the page behind it: what Airflow loads as a plugin.

Airflow imports this module in every process that loads plugins, tasks on agents included, where neither FastAPI nor a
database driver need be installed: nothing but Airflow's base class and configuration are imported here. The page's
application (``view``) is built by its first request, which only an API server gets.
"""

# ruff: noqa: RUF012 - Airflow reads lists from the plugin's class, and declares them so

import importlib
from typing import Any, Final

from airflow.configuration import conf
from airflow.sdk.plugins_manager import AirflowPlugin

#: Where the page is mounted in Airflow's API server.
URL_PREFIX: Final = "/isthmus"

_AGENTS: Final = {
    "name": "Remote Agents",
    # Relative to Airflow's base address, whatever path a proxy puts before it.
    "href": f"{URL_PREFIX.removeprefix('/')}/agents",
    "url_route": "remote-agents",
    "destination": "nav",
    "category": "browse",
}


class _BuiltOnRequest:
    """An ASGI application that imports and builds the page's when it is asked for the first time."""

    def __init__(self) -> None:
        self._app: Any = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if self._app is None:
            self._app = importlib.import_module("isthmus.deployment.view.app").create()
        await self._app(scope, receive, send)


class RemoteAgentsPlugin(AirflowPlugin):
    """Airflow mounts the application and shows the entries to those who may see its plugins."""

    name = "isthmus"
    fastapi_apps: list[Any] = [{"app": _BuiltOnRequest(), "url_prefix": URL_PREFIX, "name": "Isthmus: Remote Agents"}]
    external_views: list[Any] = [_AGENTS]

    @classmethod
    def on_load(cls, *args: Any, **kwargs: Any) -> None:
        """Add an entry that opens the control plane, if ``[isthmus] control_url`` is set.

        The page cannot carry that link itself: the frame that Airflow shows it in lets nothing leave it. What is no
        address is no entry; the page says what is wrong with the setting.
        """
        control_url = conf.get("isthmus", "control_url", fallback=None) or ""
        known = control_url.startswith(("https://", "http://"))
        cls.external_views = [_AGENTS, _control_plane(control_url)] if known else [_AGENTS]


def _control_plane(control_url: str) -> dict[str, str]:
    """An entry without a route in Airflow's UI opens its address in a tab of its own."""
    return {
        "name": "Isthmus Control Plane",
        "href": f"{control_url.rstrip('/')}/ui/overview",
        "destination": "nav",
        "category": "browse",
    }
