"""Times, counts and sizes as people say them."""

from datetime import datetime

UNITS = {"TB": 1e12, "GB": 1e9, "MB": 1e6}


def clock(moment: str) -> str:
    """Return a time of the catalogue as this machine's clock shows it, with the day if not today.

    >>> clock("2020-02-03T10:00:00.000000+00:00")[:5]
    '3 Feb'
    """
    local = datetime.fromisoformat(moment).astimezone()
    is_today = local.date() == datetime.now().astimezone().date()
    return local.strftime("%H:%M" if is_today else "%-d %b %H:%M")


def count(n: int, what: str) -> str:
    """Return a number of things.

    >>> count(1, "slide"), count(2000, "slide")
    ('1 slide', '2,000 slides')
    """
    return f"{n:,} {what}{'' if n == 1 else 's'}"


def size(n: float) -> str:
    """Return a number of bytes in words.

    >>> size(2_776_982), size(412e9)
    ('2.8 MB', '412.0 GB')
    """
    unit = next((unit for unit in UNITS if n >= UNITS[unit]), "MB")
    return f"{n / UNITS[unit]:,.1f} {unit}"


def share(part: float) -> str:
    """Return a share as whole per cent; a little is not nothing.

    >>> share(0.004), share(0.0), share(0.996), share(0.25)
    ('<1%', '0%', '>99%', '25%')
    """
    if 0 < part < 0.01:
        return "<1%"
    return ">99%" if 0.99 < part < 1 else f"{part:.0%}"
