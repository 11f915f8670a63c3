"""Reads the images and words of a slide file that name its patient, for the identity store only."""

import json
from pathlib import Path

import openslide

from histo_nb.errors import SlideError

MAX_IMAGE_PX = 50_000_000  # a label has some 0.3 MP, a macro image 1.5; hostile files claim 900


def extract_identity(slide_path: Path, folder: Path) -> None:
    """Write a slide's label, macro and other associated images and its properties to `folder`.

    Images as PNG, all of the file's own words as `properties.json`.

    Raises
    ------
    SlideError
        An image is larger than 50 MP or does not decode.
    """
    try:
        with openslide.OpenSlide(slide_path) as slide:
            properties = dict(slide.properties)
            for name in slide.associated_images:
                size = [
                    int(properties.get(f"openslide.associated.{name}.{side}", 0))
                    for side in ("width", "height")
                ]
                if size[0] * size[1] > MAX_IMAGE_PX:
                    raise SlideError(
                        f"{slide_path.name} has an image “{_plain(name)}” of "
                        f"{size[0]} × {size[1]} px, more than any label or macro; it is not taken"
                    )
                slide.associated_images[name].convert("RGB").save(folder / f"{_plain(name)}.png")
    except (openslide.OpenSlideError, OSError) as error:
        raise SlideError(
            f"{slide_path.name} has a label or macro image that cannot be read; "
            "the file is damaged: scan or copy it again"
        ) from error
    (folder / "properties.json").write_text(json.dumps(properties), encoding="utf-8")


def _plain(name: str) -> str:
    return "".join(letter for letter in name if letter.isascii() and letter.isalnum())[:40]
