"""The mask studio: slides, suspicious ones first; one masked live and corrected by hand."""

import logging
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import asdict, fields
from functools import partial
from typing import Any

import cv2
import numpy as np
import pandas as pd
import traitlets

from histo_nb.catalog import account
from histo_nb.errors import HistoError, SpecError
from histo_nb.home import Home
from histo_nb.masking.artefacts import find_pen
from histo_nb.masking.masks import (
    describe_mask,
    forget_edit,
    keep_mask,
    list_masks,
    mask_path,
    read_mask,
    read_spec,
)
from histo_nb.masking.methods import METHODS
from histo_nb.masking.quality import measure_quality
from histo_nb.masking.strokes import Stroke, apply_strokes
from histo_nb.masking.tissue import MaskSpec, TissueMask, mask_thumbnail, measure_slide
from histo_nb.slide import Slide
from histo_nb.widgets.newest import Newest
from histo_nb.widgets.palette import encode_jpeg, encode_png
from histo_nb.widgets.widget import Widget, bundle, style

log = logging.getLogger(__name__)

SMALL_PX = 200  # longest side of a slide in the list and of a method's preview
INSIDE_RGBA, OUTLINE_RGBA = (0, 158, 115, 70), (0, 110, 80, 255)
LONGEST_NAME = 64
FREE = [f.name for f in fields(MaskSpec) if f.name not in ("method", "mask_mpp")]  # have sliders


def show_studio(home: Home, *, spec: MaskSpec | None = None) -> "Studio":
    """Return the studio over the slides of `home`, to be shown by a notebook."""
    return Studio(home, spec=spec)


class Studio(Widget):
    """Sliders with their mask at once, methods side by side, a brush; saved by a person's name."""

    _esm = traitlets.Unicode(bundle("studio")).tag(sync=True)
    _css = traitlets.Unicode(style("studio")).tag(sync=True)
    slides = traitlets.List().tag(sync=True)  # see `_entry`
    defaults = traitlets.Dict().tag(sync=True)  # a MaskSpec
    methods = traitlets.List().tag(sync=True)  # names
    annotator = traitlets.Unicode().tag(sync=True)

    def __init__(self, home: Home, *, spec: MaskSpec | None = None) -> None:
        self._home, self._spec = home, spec or MaskSpec()
        self._live, self._listing = Newest(), Newest()
        self._shown: _Shown | None = None
        self._wanted: deque[str] = deque()  # small pictures
        super().__init__(
            slides=[_entry(row) for row in list_masks(home).to_dict("records")],
            defaults=asdict(self._spec),
            methods=list(METHODS),
            annotator=account(),
        )
        self.on_msg(self._receive)

    def wait(self, timeout_s: float) -> bool:
        """Wait until all that was asked for is sent; False if that takes longer."""
        return self._live.wait(timeout_s) and self._listing.wait(timeout_s)

    def leave(self) -> dict[str, Any]:
        """Return what is suspicious, in words."""
        flagged = [f"{s['slide_id']}: {s['flags']}" for s in self.slides if s["flags"]]
        said = "\n".join([f"Mask studio: {len(self.slides)} slides", *flagged[:20]])
        return {"text/plain": said}

    def _receive(self, _: Any, message: dict[str, Any], __: list[memoryview]) -> None:
        kind = message.get("kind")
        if kind in ("save", "forget"):  # at once: what is only shown may be overtaken, these not
            self._try(self._save if kind == "save" else self._forget, message)
        elif kind in ("slide", "mask"):
            work = self._open if kind == "slide" else self._send_mask
            self._live.do(partial(self._try, work, message))
        elif kind == "small":
            self._wanted.extend(str(name) for name in message.get("slide_ids", []))
            self._listing.do(self._send_wanted)

    def _try(self, work: Callable[[Mapping[str, Any]], None], message: Mapping[str, Any]) -> None:
        try:
            work(message)
        except Exception as error:  # a page that gets no answer waits for ever
            log.exception("the studio's %s failed", message.get("kind"))
            self.send({"kind": "trouble", "text": str(error)})

    # -------------------------------------------------------------------------------- a slide
    def _open(self, message: Mapping[str, Any]) -> None:
        self._shown = shown = _Shown(self._home, str(message.get("slide_id")), self._spec.mask_mpp)
        path = mask_path(self._home, shown.slide_id)
        stored = read_mask(path) if path.is_file() else None
        spec = read_spec(path) if stored else self._spec
        height, width = shown.rgb.shape[:2]
        answer = {
            "kind": "slide",
            "slide_id": shown.slide_id,
            "width": width,
            "height": height,
            "mpp": shown.mpp,
            "downsample": shown.downsample,
            "spec": asdict(spec),
            **_edit(self._home, shown.slide_id),
        }
        self.send(answer, [encode_jpeg(shown.rgb, quality=85)])
        self._send_found(shown, stored or shown.find(spec), stored=stored is not None)
        self._send_methods(shown, spec)

    def _send_mask(self, message: Mapping[str, Any]) -> None:
        shown, spec = self._current(message), self._read_spec(message)
        self._send_found(shown, shown.find(spec), stored=False)
        if message.get("methods"):
            self._send_methods(shown, spec)

    def _send_found(self, shown: "_Shown", mask: TissueMask, *, stored: bool) -> None:
        rgb, array = shown.rgb, _fit(mask.array, shown.rgb)
        flags = measure_quality(rgb, array, shown.pen, mpp=shown.mpp).flags()
        answer = {
            "kind": "mask",
            "slide_id": shown.slide_id,
            "stored": stored,
            "tissue_mm2": f"{mask.tissue_mm2:.2f}",
            "share": f"{mask.array.mean():.1%}",
            "flags": flags,
        }
        self.send(answer, [paint_mask(array)])

    def _send_methods(self, shown: "_Shown", spec: MaskSpec) -> None:
        masks = [shown.find(_with(spec, {"method": name})).array for name in METHODS]
        pictures = [_small(shown.rgb, mask) for mask in masks]
        shares = [f"{mask.mean():.1%}" for mask in masks]
        answer = {"kind": "methods", "slide_id": shown.slide_id, "shares": shares}
        self.send(answer, pictures)

    # ------------------------------------------------------------------------------- by hand
    def _save(self, message: Mapping[str, Any]) -> None:
        shown, spec = self._current(message), self._read_spec(message)
        who = str(message.get("who", "")).strip()[:LONGEST_NAME]
        if not who:
            raise SpecError("say who you are first: a corrected mask carries a name")
        strokes = [Stroke.parse(said) for said in message.get("strokes", [])]
        path = mask_path(self._home, shown.slide_id)
        if message.get("stored") and path.is_file():
            start, spec = read_mask(path), read_spec(path)
        else:
            start = shown.find(spec)
        with shown.open(self._home) as slide:
            if slide.slide_mpp != start.slide_mpp:
                raise SpecError(
                    f"{shown.slide_id} has another mpp than when it was masked; mask it again"
                )
            thumbnail, _ = slide.thumbnail(mpp=start.downsample * start.slide_mpp)
            mask = measure_slide(slide, apply_strokes(start, strokes), thumbnail=thumbnail)
        seen_at = str(message.get("edited_at") or "") or None
        keep_mask(self._home, shown.slide_id, mask, spec=spec, who=who, seen_at=seen_at)
        self._tell_saved(shown, mask, n_strokes=len(strokes))

    def _forget(self, message: Mapping[str, Any]) -> None:
        shown = self._current(message)
        who = str(message.get("who", "")).strip()[:LONGEST_NAME] or account()
        spec = read_spec(mask_path(self._home, shown.slide_id))
        seen_at = str(message.get("edited_at") or "") or None
        mask = forget_edit(self._home, shown.slide_id, spec=spec, who=who, seen_at=seen_at)
        self._tell_saved(shown, mask, n_strokes=0)

    def _tell_saved(self, shown: "_Shown", mask: TissueMask, *, n_strokes: int) -> None:
        entry = _entry(describe_mask(self._home, shown.slide_id))
        self.slides = [entry if s["slide_id"] == shown.slide_id else s for s in self.slides]
        self._send_found(shown, mask, stored=True)
        path = mask_path(self._home, shown.slide_id)
        answer = {"kind": "saved", "slide_id": shown.slide_id, "spec": asdict(read_spec(path))}
        self.send(answer | {"n_strokes": n_strokes} | _edit(self._home, shown.slide_id))
        self._send_small(shown.slide_id)

    def _current(self, message: Mapping[str, Any]) -> "_Shown":
        if self._shown is None or message.get("slide_id") != self._shown.slide_id:
            raise SpecError("another slide was opened meanwhile; nothing was changed")
        return self._shown

    def _read_spec(self, message: Mapping[str, Any]) -> MaskSpec:
        said = message.get("spec", {})
        try:
            values: dict[str, Any] = {name: float(said[name]) for name in FREE}
        except (LookupError, TypeError, ValueError) as error:
            raise SpecError(f"the studio's sliders say {said!r}, which is no mask spec") from error
        values |= {"without_pen": bool(said["without_pen"]), "method": str(said.get("method"))}
        return _with(self._spec, values)

    # --------------------------------------------------------------------------------- list
    def _send_wanted(self) -> None:
        while self._wanted:
            self._send_small(self._wanted.popleft())

    def _send_small(self, slide_id: str) -> None:
        try:
            shown = _Shown(self._home, slide_id, 0)
            path = mask_path(self._home, slide_id)
            mask = read_mask(path).array if path.is_file() else None
            picture = _small(shown.rgb, mask)
        except HistoError:
            log.exception("slide %s cannot be shown", slide_id)
            picture = b""
        self.send({"kind": "small", "slide_id": slide_id}, [picture])


class _Shown:
    """A slide's thumbnail with what its masks need; masks are made of it, not of the file."""

    def __init__(self, home: Home, slide_id: str, mpp: float) -> None:
        self.slide_id = slide_id
        with self.open(home) as slide:
            small_mpp = slide.slide_mpp * max(slide.size) / SMALL_PX
            self.rgb, self.downsample = slide.thumbnail(mpp=mpp or small_mpp)
            self.slide_mpp, self.bounds = slide.slide_mpp, slide.bounds
        self.mpp = self.downsample * self.slide_mpp
        self.pen = find_pen(self.rgb, mpp=self.mpp) if mpp else np.zeros((0, 0), bool)

    def open(self, home: Home) -> Slide:
        row = home.catalog.slide(self.slide_id)
        return Slide(row["slide_path"], slide_mpp=row["slide_mpp"])

    def find(self, spec: MaskSpec) -> TissueMask:
        return mask_thumbnail(self.rgb, self.downsample, self.slide_mpp, self.bounds, spec=spec)


def paint_mask(mask: np.ndarray) -> bytes:
    """Return the PNG of a (H, W) bool mask to lie over its slide: tinted, with an outline."""
    rgba = np.zeros((*mask.shape, 4), np.uint8)
    rgba[mask] = INSIDE_RGBA
    edge = mask & (cv2.erode(mask.astype(np.uint8), np.ones((3, 3), np.uint8)) == 0)
    rgba[edge] = OUTLINE_RGBA
    return encode_png(rgba)


def _small(rgb: np.ndarray, mask: np.ndarray | None) -> bytes:
    """Return a JPEG of at most `SMALL_PX` a side, the mask's outline on it."""
    shrinking = max(max(rgb.shape[:2]) / SMALL_PX, 1)
    size = round(rgb.shape[1] / shrinking), round(rgb.shape[0] / shrinking)
    picture = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA)
    if mask is not None:
        small = _fit(mask, picture).astype(np.uint8)
        outlines, _ = cv2.findContours(small, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(picture, outlines, -1, OUTLINE_RGBA[:3], 1)
    return encode_jpeg(picture, quality=85)


def _fit(mask: np.ndarray, rgb: np.ndarray) -> np.ndarray:
    size = rgb.shape[1], rgb.shape[0]
    return cv2.resize(mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST) > 0


def _with(spec: MaskSpec, values: Mapping[str, Any]) -> MaskSpec:
    return MaskSpec(**{**asdict(spec), **values})


def _edit(home: Home, slide_id: str) -> dict[str, str]:
    said = describe_mask(home, slide_id)
    return {"edited_by": said["edited_by"] or "", "edited_at": said["edited_at"] or ""}


def _entry(row: Mapping[Any, Any]) -> dict[str, Any]:
    share = row["tissue_fraction"]
    return {
        "slide_id": row["slide_id"],
        "share": "" if pd.isna(share) else f"{share:.0%}",
        "flags": row["quality_flags"],
        "edited_by": "" if pd.isna(row["edited_by"]) else row["edited_by"],
    }
