"""The tile-label board: a grid of tiles, a key a class, several annotators.

Every keystroke is a message of its own that is answered when the catalogue has it: traits that
are synchronised would keep the last of several quick keys only.
"""

import logging
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import ipywidgets
import numpy as np
import pandas as pd
import traitlets

from histo_nb.catalog import account
from histo_nb.errors import HistoError, SpecError
from histo_nb.export.colours import class_colours
from histo_nb.home import Home
from histo_nb.inference.predictions import read_predictions
from histo_nb.tables import LABELLED_TILES, read_table
from histo_nb.tiling.hand import measure_agreement, settle
from histo_nb.tiling.pictures import UNLABELLED, check_file_name
from histo_nb.tiling.queue import Order, order_tiles
from histo_nb.tiling.table import tile_table_path
from histo_nb.widgets.newest import Newest
from histo_nb.widgets.page import fixed_html, make_page
from histo_nb.widgets.tile_pictures import TilePictures
from histo_nb.widgets.widget import Widget, bundle, style

log = logging.getLogger(__name__)

TITLE = "Tile labels"
EMPTY = """
<div class="hr-empty"><h2>No tiles to label yet</h2>
<p>Tiles appear here when slides have been masked and cut. Reload this page after
one of these has run:</p>
<dl><dt><code>histo-nb tile</code></dt><dd>cuts the slides of the catalogue</dd>
<dt><code>histo-nb demo</code></dt><dd>makes virtual slides and takes them all the way</dd>
</dl></div>"""
UNAVAILABLE = """
<div class="hr-empty"><h2>The tiles cannot be read</h2>
<p>The tile table or the catalogue did not open. Ask the person who runs this page to look at
<code>histo-nb doctor</code>, or to cut the tiles again with <code>histo-nb tile</code>.</p>
</div>"""
PICTURE_PX = 192  # of a tile in the grid, for fine screens
CONTEXT_PX = 640  # of a tile among its neighbours
MOST_A_PAGE = 200
AT_ONCE = 8  # pictures in one message: the first ones show while others are read
LONGEST_NAME = 64
REMEMBERED = 10_000  # labels that are known as saved when a page sends them again
BAD_MESSAGE = (LookupError, TypeError, ValueError, AttributeError, OverflowError)


def show_board_page(home: Home) -> ipywidgets.Widget:
    """Return the page on which tiles of `home` are labelled, to be shown by a dashboard."""
    try:
        return make_page(TITLE, Board(home))
    except HistoError:
        log.exception("the tiles of %s cannot be labelled", home.root)
        there = tile_table_path(home).is_file()
        return make_page(TITLE, fixed_html(UNAVAILABLE if there else EMPTY))


def show_board(home: Home, *, classes: Sequence[str] = ()) -> "Board":
    """Return the board of the tiles of `home`, to be shown by a notebook.

    Parameters
    ----------
    classes
        Keys 1–9, in this order, later ones by mouse; else those of the tile table and of labels
        by hand.

    Raises
    ------
    TableError
        There is no tile table yet.
    """
    return Board(home, classes=classes)


class Board(Widget):
    """Tiles in pages; the front end asks for a page, its pictures follow.

    What others, files and the model say of a tile is told once one has labelled it oneself.
    """

    _esm = traitlets.Unicode(bundle("board")).tag(sync=True)
    _css = traitlets.Unicode(style("board")).tag(sync=True)
    classes = traitlets.List().tag(sync=True)  # {label, colour}
    slides = traitlets.List().tag(sync=True)  # slide_ids
    annotator = traitlets.Unicode().tag(sync=True)  # who it is unless the page knows better
    has_model = traitlets.Bool().tag(sync=True)  # there are predictions to order by

    def __init__(self, home: Home, *, classes: Sequence[str] = ()) -> None:
        self._home = home
        self._table_was = _stamp(home)
        self._tiles = read_table(tile_table_path(home), LABELLED_TILES)
        self._numbers = {name: i for i, name in enumerate(self._tiles.tile_id)}
        self._predictions = read_predictions(home, self._tiles)
        self._queue: tuple[dict[str, Any], np.ndarray] = ({}, np.arange(0))
        self._uncertain = np.arange(0)  # the order by uncertainty, once it was asked for
        self._handled: deque[tuple[str, int]] = deque(maxlen=REMEMBERED)  # labels by view and seq
        self._painting, self._zooming, self._counting = Newest(), Newest(), Newest()
        self._counted: tuple[Any, dict[str, Any]] = (None, {})
        self._near, self._far = TilePictures(), TilePictures()  # one a thread
        known = {*self._tiles.label.dropna(), *home.catalog.hand_labels().label}
        super().__init__(
            classes=_with_colours(classes or sorted(known, key=lambda c: (c != "normal", c))),
            slides=sorted(self._tiles.slide_id.unique()),
            annotator=account(),
            has_model=not self._predictions.empty,
        )
        self.add_class("hb-host")
        self.on_msg(self._receive)

    def wait(self, timeout_s: float) -> bool:
        """Wait until all pictures that were asked for are sent; False if that takes longer."""
        return all(
            worker.wait(timeout_s) for worker in (self._painting, self._zooming, self._counting)
        )

    def leave(self) -> dict[str, Any]:
        """Return how far the labelling is, in words."""
        said = self._home.catalog.hand_labels()
        n = said.tile_id.nunique()
        return {"text/plain": f"Board: {len(self._tiles)} tiles, {n} labelled by hand"}

    def _receive(self, _: Any, message: dict[str, Any], __: list[memoryview]) -> None:
        kind = message.get("kind")
        try:
            if kind == "label":
                self._save(message)
            elif kind == "page":
                self._send_page(message)
            elif kind == "pictures":
                rows = self._known(message.get("tile_ids", []))
                self._painting.do(partial(self._send_pictures, rows))
            elif kind == "context":
                rows = self._known([message.get("tile_id")])
                self._zooming.do(partial(self._send_context, rows, message.get("tiles_wide")))
            elif kind == "news":
                self._counting.do(partial(self._send_news, str(message.get("annotator", ""))))
            elif kind == "add_class":
                self._add_class(str(message.get("label", "")).strip())
        except (HistoError, *BAD_MESSAGE) as error:
            log.exception("the board's %s failed", kind)
            self.send({"kind": "trouble", "text": str(error), "asked": message})

    # ------------------------------------------------------------------------------- labels
    def _save(self, message: Mapping[str, Any]) -> None:
        answer = {name: message.get(name) for name in ("view", "seq")} | {"kind": "saved"}
        try:
            self._check_label(message)
            tile_id, annotator = message["tile_id"], message["annotator"].strip()
            number = (str(message["view"]), int(message["seq"]))
            if number not in self._handled:  # a page that got no answer asks again
                self._home.catalog.add_hand_label(
                    tile_id, annotator=annotator, label=message["label"]
                )
                self._handled.append(number)
            (answer["tile"],) = self._describe(self._known([tile_id]), annotator=annotator)
        except (HistoError, *BAD_MESSAGE) as error:
            log.exception("a label was not saved")
            answer["reason"] = str(error)
        self.send(answer)

    def _check_label(self, message: Mapping[str, Any]) -> None:
        name, label = message["annotator"].strip(), message["label"]
        if not 0 < len(name) <= LONGEST_NAME:
            raise ValueError("say who you are first: labels carry the name of who gave them")
        if message["tile_id"] not in self._numbers or _stamp(self._home) != self._table_was:
            raise ValueError("the slides were tiled anew meanwhile; reload the page")
        if label is not None and label not in [known["label"] for known in self.classes]:
            raise ValueError(f"{label} is no class of this board")

    def _add_class(self, label: str) -> None:
        known = [entry["label"] for entry in self.classes]
        check_file_name(label[:LONGEST_NAME], what="class")
        if label.casefold() in [name.casefold() for name in (*known, UNLABELLED)]:
            raise SpecError(f"there is a class {label} already; its key labels")
        self.classes = _with_colours([*known, label[:LONGEST_NAME]])

    # -------------------------------------------------------------------------------- pages
    def _send_page(self, message: Mapping[str, Any]) -> None:
        asked = dict(message.get("queue", {}))
        if asked != self._queue[0]:
            self._queue = (asked, self._make_queue(asked))
        queue = self._queue[1]
        start, n = int(message.get("start", 0)), min(int(message.get("n", 0)), MOST_A_PAGE)
        rows = self._tiles.iloc[queue[max(start, 0) : max(start, 0) + n]]
        tiles = self._describe(rows, annotator=str(asked.get("annotator", "")))
        self.send({"kind": "page", "asked": message, "total": len(queue), "tiles": tiles})

    def _make_queue(self, asked: Mapping[str, Any]) -> np.ndarray:
        said = self._home.catalog.hand_labels()
        order = self._order(asked.get("order", "random"), said)
        keep = self._filter(str(asked.get("show", "all")), said, str(asked.get("annotator", "")))
        if asked.get("slide"):
            keep &= (self._tiles.slide_id == asked["slide"]).to_numpy()
        return order[keep[order]]

    def _order(self, order: Order, said: pd.DataFrame) -> np.ndarray:
        if order == "uncertain" and len(self._uncertain):
            return self._uncertain
        uncertainty = self._predictions.get("uncertainty", pd.Series(dtype=float))
        settled = settle(said) if order == "disagreement" else None
        found = order_tiles(self._tiles, order, uncertainty=uncertainty, settled=settled)
        if order == "uncertain":
            self._uncertain = found
        return found

    def _filter(self, show: str, said: pd.DataFrame, annotator: str) -> np.ndarray:
        tiles, own = self._tiles, said[said.annotator == annotator]
        mine = tiles.tile_id.isin(own.tile_id)
        if show == "unlabelled":
            return (~mine).to_numpy()
        if show == "mine":
            return mine.to_numpy()
        if show == "conflict":
            settled = settle(said)
            return tiles.tile_id.isin(settled.index[settled.conflict.eq(True)]).to_numpy()
        if show == "marked":
            marks = tiles.reindex(columns=["pen", "soft"]).astype(float)
            return (marks > 0).any(axis=1).to_numpy()
        if show.startswith("class:"):  # by one's own labels: nobody is led by those of others
            return tiles.tile_id.isin(own.tile_id[own.label == show[6:]]).to_numpy()
        if show == "all":
            return np.ones(len(tiles), bool)
        raise SpecError(f"show={show!r} is no filter of this board; reload the page")

    def _describe(self, rows: pd.DataFrame, *, annotator: str) -> list[dict[str, Any]]:
        said = self._home.catalog.hand_labels(rows.tile_id)
        labels = {
            name: dict(zip(group.annotator, group.label, strict=True))
            for name, group in said.groupby("tile_id")
        }
        return [
            self._describe_tile(row, labels.get(row["tile_id"], {}), annotator)
            for row in rows.to_dict("records")
        ]

    def _describe_tile(
        self, row: Mapping[Any, Any], labels: Mapping[str, str], annotator: str
    ) -> dict[str, Any]:
        told = {
            "id": row["tile_id"],
            "slide": row["slide_id"],
            "place": f"{row['x']}, {row['y']}",
            "mine": labels.get(annotator),
            "pen": _share(row.get("pen")),
            "soft": _share(row.get("soft")),
            "others": [],
        }
        if told["mine"]:  # nobody is led by what others think
            told["others"] = sorted((n, said) for n, said in labels.items() if n != annotator)
            told["file"] = f"{row['label']} ({row['label_source']})" if row["label"] else "no label"
            if row["tile_id"] in self._predictions.index:
                told["model"] = self._predictions.said[row["tile_id"]]
        return told

    def _send_news(self, annotator: str) -> None:
        try:
            last = self._home.catalog.last_decision()
            if self._counted[0] != last:
                self._counted = (last, self._count())
        except HistoError as error:
            self.send({"kind": "trouble", "text": str(error)})
            return
        counted = dict(self._counted[1])
        by_annotator = counted.pop("by_annotator")
        self.send({"kind": "news", "mine": by_annotator.get(annotator, 0), **counted})

    def _count(self) -> dict[str, Any]:
        said = self._home.catalog.hand_labels()
        here = said.tile_id.isin(self._numbers)
        said, orphans = said[here], said[~here]
        settled = settle(said)
        return {
            "total": len(self._tiles),
            "by_annotator": said.annotator.value_counts().to_dict(),
            "counts": settled.label.value_counts().to_dict(),
            "conflicts": int(settled.conflict.sum()),
            "agreement": [_say_agreement(found) for found in measure_agreement(said)],
            "orphans": int(orphans.tile_id.nunique()),
        }

    # ----------------------------------------------------------------------------- pictures
    def _known(self, tile_ids: Iterable[Any]) -> pd.DataFrame:
        asked = list(tile_ids)[:MOST_A_PAGE]
        return self._tiles.iloc[[self._numbers[name] for name in asked if name in self._numbers]]

    def _send_pictures(self, rows: pd.DataFrame) -> None:
        records = rows.to_dict("records")
        for first in range(0, len(records), AT_ONCE):
            some = records[first : first + AT_ONCE]
            pictures = [self._near.read(row, widened=1, side_px=PICTURE_PX)[0] for row in some]
            self.send({"kind": "pictures", "tile_ids": [r["tile_id"] for r in some]}, pictures)

    def _send_context(self, rows: pd.DataFrame, tiles_wide: Any) -> None:
        widened = min(max(float(tiles_wide or 3), 1.0), 16.0)
        for row in rows.to_dict("records"):
            picture, box = self._far.read(row, widened=widened, side_px=CONTEXT_PX)
            self.send({"kind": "context", "tile_id": row["tile_id"], "box": box}, [picture])


def _with_colours(labels: Sequence[str]) -> list[dict[str, str]]:
    if not all(labels) or len(set(labels)) < len(labels):
        raise SpecError(f"classes={list(labels)}: each needs a name of its own")
    shown = list(labels)
    return [
        {"label": name, "colour": c}
        for name, c in class_colours(shown, normal_class="normal").items()
    ]


def _stamp(home: Home) -> tuple[int, int]:
    """Return what changes when the tile table is written anew."""
    path = tile_table_path(home)
    if not path.is_file():
        return 0, 0
    return path.stat().st_ino, path.stat().st_mtime_ns


def _share(value: Any) -> float:
    return 0.0 if value is None or pd.isna(value) else float(value)


def _say_agreement(found: Mapping[str, Any]) -> dict[str, Any]:
    kappa = found["kappa"]
    return {
        "who": ", ".join(found["annotators"]),
        "kappa": "—" if np.isnan(kappa) else f"{kappa:.2f}",
        "n_tiles": found["n_tiles"],
        "agreement": f"{found['agreement']:.0%}",
    }
