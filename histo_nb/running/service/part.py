"""A part's process: `python -m histo_nb.running.service.part NAME`, started by the supervisor."""

from importlib import import_module

from histo_nb.running.service.channel import open_channel


def main() -> None:
    """Do the work that the supervisor names, until it says to stop."""
    channel = open_channel()
    import_module(f"histo_nb.running.service.{channel.kind}").work(channel)
    if channel.is_orphan:
        channel.end_all()


if __name__ == "__main__":
    main()
