"""Commands of whoever runs the place: the pages, the service, and how it is."""
# ruff: noqa: PLC0415

from pathlib import Path
from typing import Any

import click

from histo_nb.home import Home
from histo_nb.running.report import command

FOLDER = click.Path(path_type=Path, exists=True, file_okay=False)


@click.option("--pages", default="review,board,operations", show_default=True,
              help="Dashboards that are served, the first one first.")  # fmt: skip
@click.option("--port", default=8866, show_default=True, help="On 127.0.0.1; 0 = a free one.")
@click.option("--socket", type=click.Path(path_type=Path), default=None,
              help="Listen on this file instead, in a folder of mode 700.")  # fmt: skip
@click.option("--base-url", default="/", show_default=True, help="Behind a proxy: /user/ada/.")
@click.option("--no-token", is_flag=True,
              help="A proxy in front asks who it is; with --socket only.")  # fmt: skip
@click.option("--user", default=None, help="Who that is; pages sign as nobody else.")
@click.option("--hub", is_flag=True, help="Where, and for whom, JupyterHub says.")
@click.option("--max-visitors", default=10, show_default=True, help="At once; about 150 MB each.")
@click.option("--warm", "n_warm", default=1, show_default=True,
              help="Kernels that wait for the next visitors.")  # fmt: skip
@click.option("--watch", multiple=True, type=FOLDER,
              help="Service: take in what a scanner drops here, and analyse it.")  # fmt: skip
@click.option("--dicom", "dicom_port", type=int, default=None,
              help="Service: receive by DICOM on this port, and analyse it.")  # fmt: skip
@click.option("--dicom-host", default="127.0.0.1", show_default=True,
              help="0.0.0.0: the whole network.")  # fmt: skip
@click.option("--dicom-aet", default="HISTO_NB", show_default=True,
              help="Our application entity title.")  # fmt: skip
@click.option("--dicom-allow", "dicom_allowed", multiple=True,
              help="Title of a sender that may store.")  # fmt: skip
@click.option("--quiet", "quiet_s", default=10.0, show_default=True,
              help="Seconds a slide must not have changed.")  # fmt: skip
@click.option("--workers", "n_workers", type=int, default=None,
              help="Service: processes that analyse; 0 = one a core.  [default: 0]")  # fmt: skip
@click.option("--max-waiting", default=200, show_default=True,
              help="Slides not analysed yet; above, none is taken.")  # fmt: skip
@click.option("--min-free-gb", default=5.0, show_default=True,
              help="Of the disk of the home; below, none is taken.")  # fmt: skip
@click.option("--no-pages", is_flag=True, help="Service without dashboards: a hub serves them.")
def serve(home: Home, **asked: Any) -> dict[str, Any]:
    """Serve dashboards on this machine until Ctrl-C or SIGTERM, without opening a browser.

    The address is printed once; whoever has it may read and sign.

    With --watch, --dicom or --workers it is a service: slides come in, are analysed with the model
    in production, and stand on the pages; see `histo-nb status`.
    """
    pages = _pages(asked)
    is_service = asked["watch"] or asked["dicom_port"] is not None or asked["n_workers"] is not None
    if is_service:
        return _run_service(home, asked, pages)
    if asked["no_pages"]:
        raise click.UsageError("--no-pages leaves nothing to do; say --watch, --dicom or --workers")
    return serve_pages(home, **pages)


def serve_pages(home: Home, **spec: Any) -> dict[str, Any]:
    """Serve dashboards until told to stop, and say how that ended."""
    from histo_nb.running.serve import serve_dashboards

    with serve_dashboards(home, **spec) as server:
        status = server.wait()
    return {"served": str(home.root), "status": status}


def status(home: Home) -> dict[str, Any]:
    """Say how the service is, what waits and what is wrong; exits with 0 only if all is well."""
    from histo_nb.running.service.status import read_status

    facts = read_status(home)
    trouble = facts.pop("trouble")
    return {**facts, "failures": [{"trouble": said} for said in trouble]}


def add_operating(main: click.Group) -> None:
    """Add these commands to the command line."""
    command(main)(serve)
    command(main)(status)


def _pages(asked: dict[str, Any]) -> dict[str, Any]:
    names = ("port", "socket", "base_url", "user", "max_visitors", "n_warm")
    spec = {name: asked[name] for name in names}
    spec["pages"] = tuple(name.strip() for name in asked["pages"].split(",") if name.strip())
    spec["token"] = "" if asked["no_token"] else None
    if asked["hub"]:
        from histo_nb.running.serve import hub_place

        spec |= hub_place()
    return spec


def _run_service(home: Home, asked: dict[str, Any], pages: dict[str, Any]) -> dict[str, Any]:
    from histo_nb.running.service.spec import ServiceSpec
    from histo_nb.running.service.supervisor import run_service

    if asked["dicom_port"] is not None and not asked["dicom_allowed"]:
        raise click.UsageError("name the senders with --dicom-allow TITLE")
    dicom = {"port": asked["dicom_port"], "host": asked["dicom_host"],
             "aet": asked["dicom_aet"], "allowed": list(asked["dicom_allowed"])}  # fmt: skip
    spec = ServiceSpec(
        watch=asked["watch"],
        quiet_s=asked["quiet_s"],
        dicom=None if asked["dicom_port"] is None else dicom,
        n_workers=asked["n_workers"] or 0,
        pages=None if asked["no_pages"] else pages | {"socket": str(pages["socket"] or "")},
        max_waiting=asked["max_waiting"],
        min_free_gb=asked["min_free_gb"],
    )
    return run_service(home, spec)
