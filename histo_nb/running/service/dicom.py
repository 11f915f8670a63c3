"""The part that receives slides by DICOM C-STORE."""

from histo_nb.errors import HistoError
from histo_nb.running.service.channel import Channel
from histo_nb.running.service.intake import log_arrival
from histo_nb.scanning.dicom.receiver import DicomReceiver

POLL_S = 1.0


def work(channel: Channel) -> None:
    """Receive until told to stop; while the service takes no slides, senders are told so."""
    receiver = DicomReceiver(
        channel.home,
        on_arrival=log_arrival,
        is_held=lambda: channel.hold is not None,
        **channel.settings,
    )
    with receiver:
        while not channel.stop.wait(POLL_S):
            if not receiver.is_alive():
                raise HistoError("the thread that files received series has ended")
            n_waiting = len(receiver.waiting())
            doing = f"refusing all: {channel.hold}" if channel.hold else "listening"
            channel.tell(f"{doing}; series that wait: {n_waiting}", port=receiver.port)
