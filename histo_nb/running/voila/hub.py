"""JupyterHub's door: the hub says who a visitor is, and only whom the server is for comes in."""

import os
from typing import Any

import tornado.web
from jupyterhub.singleuser.extension import (  # type: ignore[import-not-found, import-untyped, unused-ignore]
    JupyterHubIdentityProvider,
)


class HubDoor(JupyterHubIdentityProvider):  # type: ignore[misc]
    """Opens for one person, whom the hub knows; not even for an administrator of the hub.

    What is signed here bears that person's name.
    """

    def __init__(self, **options: Any) -> None:
        options.pop("token", None)  # the hub's own token is the only one
        super().__init__(**options)

    async def get_user(self, handler: Any) -> Any:
        """Return who asks, or None where the hub has to ask first.

        Raises
        ------
        tornado.web.HTTPError
            403: it is someone else.
        """
        user = await super().get_user(handler)
        if user and user.username != os.environ["JUPYTERHUB_USER"]:
            raise tornado.web.HTTPError(403)
        return user
