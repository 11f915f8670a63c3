"""The patient's page: one signed result in plain words, with the picture. No script, no numbers."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from IPython.display import HTML
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from shapely.geometry.base import BaseGeometry

from histo_nb.errors import HistoError, SlideError
from histo_nb.export.pictures import Picture, paint_overview
from histo_nb.export.templates import jpeg_uri
from histo_nb.export.words import say_time
from histo_nb.home import Home
from histo_nb.reviews import find_signature, settle_places
from histo_nb.slide import Slide
from histo_nb.tiling.reviewed import NORMAL, find_normal_classes
from histo_nb.widgets.widget import style

LONGEST_PX = 1200  # of the picture: sharp on a phone, and half a megabyte
NUMBER_PX = 64  # of the numbers in it: a third of that on a phone
SLIDE_VARIABLE = "HISTO_PATIENT_SLIDE"  # how the server names the slide to the page's kernel


@dataclass(frozen=True)
class Words:
    """What a result means, for someone who has never heard of it."""

    title: str
    found: str
    next: str


TALK = (
    "Please talk to your doctor about this result. They know you, your history and your other "
    "results, and can say what this one means for you."
)
NOTHING = Words(
    "The tissue looks normal",
    "The doctor who examined your sample saw nothing abnormal in this piece of tissue. It shows "
    "one small sample only: it says nothing about places the sample was not taken from.",
    f"{TALK} If you still feel unwell, tell them, even though this sample looks normal.",
)
# Any other class is shown by its name, without an explanation that might be wrong.
ABNORMAL = {
    "adenoma": Words(
        "An adenoma was found",
        "An adenoma is a growth that is benign: it is not cancer. Some adenomas can change over "
        "the years, which is why they are usually removed and looked after.",
        f"{TALK} They will tell you whether anything more is needed, and when to be seen again.",
    ),
    "carcinoma": Words(
        "Cancer cells were found",
        "The doctor who examined your sample saw a carcinoma, a kind of cancer. The picture alone "
        "does not say how far it has gone, or how it can be treated: other examinations do.",
        f"{TALK} You may want to take somebody along and to write down your questions. If you have "
        "not spoken with your doctor yet, call their practice today.",
    ),
}


def show_patient(home: Home, slide_id: str = "") -> HTML:
    """Return the page of one signed slide, or a message where there is none.

    Parameters
    ----------
    slide_id
        By default the slide that the server names to the kernel of this page.
    """
    try:
        return HTML(_render(home, slide_id or os.environ.get(SLIDE_VARIABLE, "")))
    except HistoError:  # its words are for the laboratory
        return HTML(_fill(words=None))


def say_words(label: str, *, normal_class: str) -> Words:
    """Return what a signed class means in plain words.

    >>> say_words("normal", normal_class="normal").title
    'The tissue looks normal'
    """
    if label == normal_class:
        return NOTHING
    unknown = Words(
        f"Your result: {label}",
        f"The doctor who examined your sample signed this result: {label}. What it means is best "
        "explained by a doctor.",
        TALK,
    )
    return ABNORMAL.get(label.lower(), unknown)


def _render(home: Home, slide_id: str) -> str:
    slide = home.catalog.slide(slide_id)
    reviews = home.catalog.reviews([slide_id])
    signature = find_signature(reviews)
    if signature is None:
        return _fill(words=None)
    normal_class = find_normal_classes(home, reviews).get(slide_id, NORMAL)
    places = settle_places(reviews)
    # Only what the result speaks of: an area of another class would be read as a second result.
    is_shown = (places.label == signature["label"]) & (places.label != normal_class)
    places = places[is_shown]
    outlines = [cast(BaseGeometry, place.outline) for place in places.annotation]
    return _fill(
        words=say_words(signature["label"], normal_class=normal_class),
        signed_on=say_time(signature["reviewed_at"]).partition(",")[0],
        picture=_picture(slide["slide_path"], slide["slide_mpp"], outlines),
        label=signature["label"],
        n_places=len(places),
    )


def _picture(path: str, slide_mpp: float, outlines: list[BaseGeometry]) -> Picture | None:
    try:
        with Slide(path, slide_mpp=slide_mpp) as slide:
            return paint_overview(slide, outlines, longest_px=LONGEST_PX, number_px=NUMBER_PX)
    except SlideError:
        return None


def _fill(**facts: object) -> str:
    here = FileSystemLoader(Path(__file__).parent)
    templates = Environment(loader=here, autoescape=True, undefined=StrictUndefined)
    return templates.get_template("patient.html.j2").render(
        style=style("patient"), data=jpeg_uri, **facts
    )
