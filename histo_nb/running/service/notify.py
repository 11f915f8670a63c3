"""What systemd is told of the service; without systemd nobody is (man sd_notify)."""

import os
import socket
from contextlib import suppress


def notify(*facts: str) -> None:
    """Tell systemd facts such as READY=1, STATUS=…, WATCHDOG=1 or STOPPING=1."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address.startswith("@"):  # the kernel's own names begin with a zero
        address = "\0" + address[1:]
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line:
        line.connect(address)
        line.send("\n".join(facts).encode())
