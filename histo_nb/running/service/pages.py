"""The part that serves the dashboards."""

from http.client import HTTPConnection, HTTPException
from pathlib import Path
from socket import AF_UNIX, socket

from histo_nb.errors import HistoError
from histo_nb.running.serve import DashboardServer, serve_dashboards
from histo_nb.running.service.channel import Channel

POLL_S = 2.0
ANSWER_S = 10.0  # for the server to answer at all
PATIENCE_S = 60.0  # it may be busy with starting a kernel


def work(channel: Channel) -> None:
    """Serve the pages, and ask now and then whether they answer."""
    settings = dict(channel.settings)
    name = settings.pop("socket")
    file = Path(name) if name else None
    with serve_dashboards(channel.home, socket=file, announce=False, **settings) as server:
        while not channel.stop.wait(POLL_S):
            if server.process.poll() is not None:
                raise HistoError(f"the server of the pages ended ({server.process.returncode})")
            if answers(server, file):
                channel.tell("serving", patience_s=PATIENCE_S, port=server.port, url=server.url)


def answers(server: DashboardServer, file: Path | None) -> bool:
    """Say whether the server answers a request, whatever it answers."""
    connection = HTTPConnection("127.0.0.1", server.port, timeout=ANSWER_S)
    try:
        if file:
            connection.sock = socket(AF_UNIX)
            connection.sock.settimeout(ANSWER_S)
            connection.sock.connect(str(file))
        connection.request("HEAD", "/")
        connection.getresponse()
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()
    return True
