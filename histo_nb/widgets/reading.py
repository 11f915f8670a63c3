"""The panel beside a slide: its class and why, reasons for doubt, regions, the reader's verdict."""

import traitlets

from histo_nb.widgets.widget import Widget, bundle, style


class ReadingPanel(Widget):
    """The facts of one slide and what its reader says.

    It sends `{"kind": …}`: `go` (to a `region`), `region`, `slide` (a `verdict`, a `label`, a
    `note`), `sign`, `reopen`, `undo`, `name` (the `reviewer`), `report` (its `format`), `thumbs`.
    """

    _esm = traitlets.Unicode(bundle("reading")).tag(sync=True)
    _css = traitlets.Unicode(style("reading")).tag(sync=True)
    facts = traitlets.Dict().tag(sync=True)  # see `slide_facts`; or title and text: a message
    judged = traitlets.Dict().tag(sync=True)  # see `Judging.state`
    selected = traitlets.Int(-1).tag(sync=True)  # index of the marked region
    reviewer = traitlets.Unicode().tag(sync=True)
    is_known = traitlets.Bool().tag(sync=True)  # the server knows who reads; no other name counts
