"""The two ends of a DICOM connection, as processes that can be killed.

`python dicom_peers.py send PORT FILE…` prints the UID of each instance that was acknowledged;
`python dicom_peers.py receive HOME QUIET_S` prints its port and serves until its input ends.
"""

import sys
from pathlib import Path

from pydicom import dcmread
from pynetdicom import AE, _config
from pynetdicom.sop_class import Verification, VLWholeSlideMicroscopyImageStorage

TITLE = "SENDER"


def associate(port: int, *, syntax: str = "1.2.840.10008.1.2.4.50", title: str = TITLE):
    entity = AE(ae_title=title)
    entity.add_requested_context(VLWholeSlideMicroscopyImageStorage, syntax)
    entity.add_requested_context(Verification)
    return entity.associate("127.0.0.1", port)


def store(port: int, *paths: Path) -> list[int]:
    """Send instances in one association; return the answer to each."""
    association = associate(port)
    assert association.is_established
    statuses = [association.send_c_store(dcmread(path)).Status for path in paths]
    association.release()
    return statuses


def send(port: int, paths: list[Path]) -> None:
    _config.STORE_SEND_CHUNKED_DATASET = True
    association = associate(port)
    say("connected")
    for path in paths:
        status = association.send_c_store(path)
        if status and status.Status == 0:
            say(str(dcmread(path, stop_before_pixels=True).SOPInstanceUID))
    association.release()


def receive(home: str, quiet_s: float) -> None:
    from histo_nb.home import open_home  # noqa: PLC0415 - senders start without
    from histo_nb.scanning.dicom.receiver import DicomReceiver  # noqa: PLC0415

    settings = {"quiet_s": quiet_s, "poll_s": 0.1, "allowed": [TITLE]}
    with DicomReceiver(open_home(home), **settings) as receiver:
        say(str(receiver.port))
        sys.stdin.read()


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    if sys.argv[1] == "send":
        send(int(sys.argv[2]), [Path(name) for name in sys.argv[3:]])
    else:
        receive(sys.argv[2], float(sys.argv[3]))
