"""The home's masks: made of slides, kept as a person corrected them, listed suspicious first."""

import json
import re
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image, PngImagePlugin

from histo_nb.catalog import now
from histo_nb.errors import CatalogError, NoTissueError, SlideError
from histo_nb.failures import over_slides
from histo_nb.files import writing
from histo_nb.home import Home
from histo_nb.masking.methods import METHODS
from histo_nb.masking.quality import FLAGS, MEASURES, Quality
from histo_nb.masking.tissue import MaskSpec, TissueMask, mask_slide
from histo_nb.slide import Slide

BITS = {"pen": 2, "soft": 4}  # of a mask's file; 1 = tissue
NO_MASK, UNREADABLE, NOT_MEASURED = "no mask", "mask unreadable", "quality not measured"
BY_HAND = "hand"  # method of a mask that a person corrected


def mask_slides(
    home: Home,
    slide_ids: list[str],
    *,
    spec: MaskSpec | None = None,
    keep_edited: bool = True,
    measure: bool = True,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Mask the named slides (all if none is named) and write the masks.

    A mask that a person has corrected stays as it is, unless `keep_edited` is false. Without
    `measure` the quality is not measured, which takes most of the time.

    Returns
    -------
    One row a slide (`slide_id, mask_path, tissue_mm2, tissue_fraction, method`, the measures of
    `Quality`, `quality_flags`, what is wrong in words, and `edited_by`, `edited_at`), and failures;
    a slide without tissue is a failure, since nothing can follow from it.
    """
    spec = spec or MaskSpec()

    def work(row: dict[str, Any]) -> dict[str, Any]:
        path = mask_path(home, row["slide_id"])
        mask = read_mask(path) if keep_edited and path.is_file() else None
        if mask is None or not mask.edited_by:
            with Slide(row["slide_path"], slide_mpp=row["slide_mpp"]) as slide:
                mask = mask_slide(slide, spec=spec, measure=measure)
            write_mask(mask, path, spec=spec)
        described = describe_mask(home, row["slide_id"])
        if not mask.array.any():
            other = next(name for name in METHODS if name != spec.method)
            raise NoTissueError(
                f"no tissue was found on {row['slide_id']} by {described['method']}; "
                f"look at the slide, try --method {other}, or draw it in the mask studio"
            )
        return described

    made, failures = over_slides(home.catalog.slides(slide_ids), work, step="masking")
    return pd.DataFrame(made), failures


def list_masks(home: Home, slide_ids: list[str] | None = None) -> pd.DataFrame:
    """Return the rows of `mask_slides` from the masks' files, the most suspicious first.

    Slides without a mask come first of all, with the flag "no mask"; then those whose mask cannot
    be read, or was made before there were measures.
    """
    names = home.catalog.slides(slide_ids or []).slide_id
    rows = pd.DataFrame([_describe_or_say_why(home, name) for name in names])
    order = sorted(range(len(rows)), key=lambda i: _suspicion(rows.quality_flags[i]))
    return rows.iloc[order].reset_index(drop=True)


def _suspicion(quality_flags: str) -> tuple[int, int]:
    """Return a key that sorts suspicious slides first: by their worst flag, then by how many."""
    flags = quality_flags.split(", ")
    known = (NO_MASK, UNREADABLE, NOT_MEASURED, *FLAGS)
    return known.index(flags[0]) if flags[0] else len(known), -len(flags)


def _describe_or_say_why(home: Home, slide_id: str) -> dict[str, Any]:
    try:
        return describe_mask(home, slide_id)
    except SlideError:
        return _undescribed(home, slide_id, UNREADABLE)


def _undescribed(home: Home, slide_id: str, why: str) -> dict[str, Any]:
    unknown = dict.fromkeys(("tissue_mm2", "tissue_fraction", *MEASURES), float("nan"))
    named = {"slide_id": slide_id, "mask_path": str(mask_path(home, slide_id)), "method": None}
    return {**named, **unknown, "quality_flags": why, "edited_by": None, "edited_at": None}


def describe_mask(home: Home, slide_id: str) -> dict[str, Any]:
    """Return a slide's row of `mask_slides` from its mask's file; no pixel is decoded."""
    path = mask_path(home, slide_id)
    if not path.is_file():
        return _undescribed(home, slide_id, NO_MASK)
    facts, (width, height) = _read_facts(path)
    row = _undescribed(home, slide_id, NOT_MEASURED)
    quality: Quality | None = facts["quality"]
    if quality:
        area_mm2 = width * height * (facts["downsample"] * facts["slide_mpp"] / 1000) ** 2
        row["tissue_mm2"] = quality.tissue * area_mm2
        row["tissue_fraction"] = quality.tissue
        row |= asdict(quality) | {"quality_flags": ", ".join(quality.flags())}
    edited_by = facts.get("edited_by")
    method = BY_HAND if edited_by else facts["spec"]["method"]
    return row | {"method": method, "edited_by": edited_by, "edited_at": facts.get("edited_at")}


def keep_mask(
    home: Home,
    slide_id: str,
    mask: TissueMask,
    *,
    spec: MaskSpec,
    who: str,
    seen_at: str | None,
) -> Path:
    """Write a mask as `who` has corrected it; it stays until `forget_edit`; return the path.

    An earlier correction is put aside, in `masks/earlier`.

    Parameters
    ----------
    seen_at
        `edited_at` of the mask that was corrected; None = it was nobody's.

    Raises
    ------
    CatalogError
        Somebody else has corrected it meanwhile.
    """
    path = mask_path(home, slide_id)
    _put_aside(path, seen_at=seen_at)
    edited = replace(mask, edited_by=who, edited_at=now())
    write_mask(edited, path, spec=spec)
    home.catalog.note("mask edited", slide_id, f"{who}: {mask.tissue_mm2:.2f} mm² of tissue")
    return path


def forget_edit(
    home: Home, slide_id: str, *, spec: MaskSpec, who: str, seen_at: str | None
) -> TissueMask:
    """Mask a slide by its method again; return the mask. What a person made is put aside.

    Raises
    ------
    CatalogError
        Somebody else has corrected it meanwhile.
    """
    row = home.catalog.slide(slide_id)
    _put_aside(mask_path(home, slide_id), seen_at=seen_at)
    with Slide(row["slide_path"], slide_mpp=row["slide_mpp"]) as slide:
        mask = mask_slide(slide, spec=spec)
    write_mask(mask, mask_path(home, slide_id), spec=spec)
    home.catalog.note("mask no longer edited", slide_id, f"{who}: {spec.method}")
    return mask


def _put_aside(path: Path, *, seen_at: str | None) -> None:
    edited_at = _read_facts(path)[0].get("edited_at") if path.is_file() else None
    if edited_at != seen_at:
        raise CatalogError(f"the mask of {path.stem} was corrected meanwhile; open the slide again")
    if edited_at:
        moment = re.sub(r"\D", "", edited_at)
        with writing(path.parent / "earlier" / f"{path.stem}.{moment}.png") as temporary:
            shutil.copyfile(path, temporary)


def mask_path(home: Home, slide_id: str) -> Path:
    """Return where a slide's mask lies."""
    return home.masks / f"{slide_id}.png"


def write_mask(mask: TissueMask, path: Path, *, spec: MaskSpec) -> Path:
    """Write a mask as a PNG that carries its scale, spec and quality; return the path.

    Bits of a pixel: 1 tissue, 2 under ink, 4 out of focus.
    """
    measured = [name for name in BITS if getattr(mask, name) is not None]
    facts = {
        "downsample": mask.downsample,
        "slide_mpp": mask.slide_mpp,
        "measured": measured,
        "spec": asdict(spec),
        "quality": asdict(mask.quality) if mask.quality else None,
        "edited_by": mask.edited_by,
        "edited_at": mask.edited_at,
    }
    pixels = mask.array.astype(np.uint8)
    for name in measured:
        pixels |= BITS[name] * getattr(mask, name).astype(np.uint8)
    info = PngImagePlugin.PngInfo()
    info.add_text("histo_nb", json.dumps(facts))
    with writing(path) as temporary:
        Image.fromarray(pixels).save(temporary, pnginfo=info, compress_level=3)
    return path


def read_mask(path: Path) -> TissueMask:
    """Read a mask written by `write_mask`.

    Raises
    ------
    SlideError
        It is missing or was not written by this program.
    """
    facts, _ = _read_facts(path)
    try:
        with Image.open(path) as image:
            pixels = np.asarray(image).astype(np.uint8)
    except (OSError, ValueError, SyntaxError) as error:
        raise _no_mask(path, error) from error
    poor = {name: pixels & BITS[name] > 0 for name in facts.get("measured", [])}
    return TissueMask(
        pixels & 1 > 0,
        facts["downsample"],
        facts["slide_mpp"],
        pen=poor.get("pen"),
        soft=poor.get("soft"),
        quality=facts["quality"],
        edited_by=facts.get("edited_by"),
        edited_at=facts.get("edited_at"),
    )


def read_spec(path: Path) -> MaskSpec:
    """Return how a mask was made."""
    return MaskSpec(**_read_facts(path)[0]["spec"])


def _read_facts(path: Path) -> tuple[dict[str, Any], tuple[int, int]]:
    """Return what a mask's file says of itself, and its width and height; decodes no pixel."""
    try:
        with Image.open(path) as image:
            facts: dict[str, Any] = json.loads(image.info["histo_nb"])
            for name in ("downsample", "slide_mpp", "spec"):
                facts[name]
            facts["quality"] = _read_quality(facts.get("quality"))
            return facts, image.size
    except (OSError, LookupError, ValueError, TypeError, SyntaxError) as error:
        raise _no_mask(path, error) from error


def _read_quality(said: Any) -> Quality | None:
    """Return measures as stored; those of another version of this program are not known."""
    try:
        return Quality(**said)
    except TypeError:
        return None


def _no_mask(path: Path, error: Exception) -> SlideError:
    return SlideError(
        f"{path.name}: no tissue mask ({error}); make it with "
        f"`histo-nb mask {path.stem} --forget-edits`"
    )
