"""The part that takes in what a scanner drops into one folder."""

from pathlib import Path

from histo_nb.running.service.channel import Channel, log
from histo_nb.scanning.hotfolder import HotFolderSpec, watch_folder
from histo_nb.scanning.intake import Arrival

SLIDE_S = 3600.0  # for one slide to be hashed, copied and looked at


def work(channel: Channel) -> None:
    """Watch the folder; while the service takes no slides, they stay where they are."""
    spec = HotFolderSpec(quiet_s=channel.settings["quiet_s"])

    def hold() -> str | None:
        channel.tell(f"taking nothing: {channel.hold}" if channel.hold else "watching its folder",
                     patience_s=SLIDE_S)  # fmt: skip
        return channel.hold

    folder = Path(channel.settings["folder"])
    watch_folder(
        folder, channel.home, spec=spec, stop=channel.stop, on_arrival=log_arrival, hold=hold
    )


def log_arrival(arrival: Arrival) -> None:
    """Log what became of a slide: its pseudonym, and the check that refused it."""
    if arrival.slide_id:
        log.info("filed %s%s", arrival.slide_id, "" if arrival.new else ", known before")
    else:
        log.info("refused %s (%s)", arrival.quarantine_id, arrival.step)
