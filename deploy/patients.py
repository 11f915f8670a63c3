"""Patients' pages at the address given, such as http://127.0.0.1:8868: links and nothing else.

There is no login here, no page of a doctor, no way to a kernel.
"""

import asyncio
import sys
from urllib.parse import urlsplit

from tornado.httpserver import HTTPServer
from tornado.web import Application

from histo_nb.running.voila.patient_handler import PatientHandler


async def main(address: str) -> None:
    """Serve until the process ends."""
    app = Application(
        [("/patient/(.*)", PatientHandler)],
        default_handler_class=PatientHandler,  # anything else is a link that is none
        log_function=lambda _: None,  # links belong into no log
    )
    # Who asks, the proxy says: too many wrong links are counted by address.
    server = HTTPServer(app, xheaders=True, trusted_downstream=["127.0.0.1"])
    where = urlsplit(address)
    server.listen(where.port or 80, where.hostname)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
