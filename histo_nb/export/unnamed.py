"""Reasons without the names of files: a scanner's file is often called as the patient is."""

import re

from histo_nb import errors

CLAUSE = re.compile(r"(?<=[:;])(?=\s)|(?<=\n)")
PATH = re.compile(
    r"""(?<![^\s"'(=])(?:(?:~|file:|[A-Za-z]:)?[/\\](?=\S)|\w[^\s/\\]*[/\\]\S+[/\\])"""
)
SUFFIX = re.compile(r"[^\s.]\.[A-Za-z]\w{1,7}(?!\w)")
SLASH = re.compile(r"""(?<!µm)[/\\](?:[^\s"')]*[^\s"'):;,])?""")
QUOTED = re.compile(r"""(?<!\w)(["']).*?\1(?!\w)|“.*?”|‘.*?’""")
OURS = "|".join(name for name, kind in vars(errors).items() if isinstance(kind, type))
FOREIGN = re.compile(
    rf"(?<![\w.])(?!(?:{OURS}):)([A-Za-z_][\w.]*(?:Error|Exception|Warning)):\s.*", re.DOTALL
)


def unnamed(reason: str, *, slide_id: str = "") -> str:
    """Return a reason in which no file is named, and the slide itself is called SLIDE.

    What may be a part of a name goes with it: names have spaces, commas and brackets. Of an error
    that is not ours only the kind is left, since its words may hold a name in any form.

    >>> unnamed("cannot read /srv/in/Doe, Jane (2).svs: it is cut off")
    'cannot read the file: it is cut off'
    >>> unnamed("no tile of S-1 fits; see S-1.svs", slide_id="S-1")
    'no tile of SLIDE fits; see the file'
    >>> unnamed("Doe.svs states no µm/px; give slide_mpp")
    'the file states no µm/px; give slide_mpp'
    >>> unnamed("PermissionError: no right to read Doe Jane")
    'PermissionError (its words are in the ledger)'
    """
    own = re.escape(slide_id) or "(?!)"
    reason = FOREIGN.sub(r"\1 (its words are in the ledger)", reason)
    reason = QUOTED.sub(lambda quoted: "“…”" if " " in quoted[0] else quoted[0], reason)
    reason = re.sub(rf"(?<![\w/\\.-]){own}\.\w+", "the file", reason)
    hidden = "".join(_hide(clause) for clause in CLAUSE.split(reason))
    return re.sub(rf"(?<![\w-]){own}(?![\w-])", "SLIDE", hidden)


def _hide(clause: str) -> str:
    """Hide from where a path begins, else from the clause's start, to the last suffix or slash."""
    path, suffixes = PATH.search(clause), [*SUFFIX.finditer(clause)]
    if not path and not suffixes:
        return clause
    start = len(clause) - len(clause.lstrip())
    if path and not (suffixes and suffixes[0].end() <= path.start()):
        start = path.start()
    last = suffixes or [*SLASH.finditer(clause, start)]
    return f"{clause[:start]}the file{clause[last[-1].end() :]}"
