"""What all objects of one result share: who made them, of what, when, and under which UIDs."""

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from highdicom import UID, AlgorithmIdentificationSequence
from highdicom.coding_schemes import CodingSchemeIdentificationItem
from highdicom.color import CIELabColor
from highdicom.sr import CodedConcept
from pydicom import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import generate_uid

from histo_nb import __version__
from histo_nb.errors import TableError
from histo_nb.export.colours import class_colours
from histo_nb.export.dicom.source import Source, find_source
from histo_nb.home import Home
from histo_nb.inference.result import SlideResult, find_result, hash_result, read_result
from histo_nb.reviews import find_signature

PROGRAM = "histo_nb"
SCHEME = "99HISTO_NB"  # our own codes: no list of the standard has a laboratory's classes
FORMAT = 1  # counts on when the same result is written otherwise: another object, another UID
MAX_MEANING = 64  # characters of a code's words and of labels (LO)
NAMES = {  # what is measured, by the name it has in results
    "probability": "Mean probability",
    "max_probability": "Highest probability",
    "area_mm2": "Area of tissue",
    "n_tiles": "Number of tiles",
    "region": "Number of the region",
    "abnormal_fraction": "Abnormal share of tissue",
    "confidence": "Confidence, see rule",
    "tissue_mm2": "Area of tissue examined",
    "score": "Score that the rule compares",
    "n_failures": "Tiles not readable",
    "slide_class": "Class of the slide",
    "gate_passed": "Model passed its gate",
    "signed_class": "Class that a reviewer signed",
}


REGION = ("area_mm2", "probability", "max_probability", "n_tiles")  # what a region is measured by


@dataclass(frozen=True, kw_only=True)
class Job:
    """A result, its slide as DICOM, and what identifies the objects made of both."""

    result: SlideResult
    source: Source
    made_at: datetime  # UTC, when the slide was analysed: no clock, so the same bytes again
    content_sha256: str
    signature: dict[str, str] | None

    def uid(self, *names: Any) -> str:
        """Return a UID that follows from the result, the series and these names alone."""
        made_of = [FORMAT, __version__, self.content_sha256, self.result.model_id, self.made_at,
                   *(level.SOPInstanceUID for level in self.source.levels)]  # fmt: skip
        return str(generate_uid(entropy_srcs=[str(part) for part in (*made_of, *names)]))

    @property
    def weights_sha256(self) -> str:
        """The hash of the model's weights; "unknown" for results of versions that did not say."""
        model = (self.result.provenance or {}).get("model", {})
        return str(model.get("weights_sha256", "unknown"))

    @property
    def algorithm(self) -> AlgorithmIdentificationSequence:
        """The model, as each object names it."""
        return AlgorithmIdentificationSequence(
            name=self.result.model_id[:MAX_MEANING],
            family=codes.DCM.ArtificialIntelligence,
            version=__version__,
            source=PROGRAM,
            parameters={"weights_sha256": self.weights_sha256, "runtime": self.result.runtime},
        )

    def colour(self, label: str) -> CIELabColor:
        """Return the colour in which pages and files show a class."""
        colours = class_colours(self.result.classes, normal_class=self.result.normal_class)
        return CIELabColor.from_string(colours[label])

    def options(self, name: str, number: int) -> dict[str, Any]:
        """Return what highdicom is told of each object: UIDs, equipment, time, scheme of codes."""
        return {
            "series_instance_uid": self.uid(name, "series"),
            "series_number": 9000 + number,
            "sop_instance_uid": self.uid(name, "instance"),
            "instance_number": 1,
            "manufacturer": PROGRAM,
            "manufacturer_model_name": self.result.model_id[:MAX_MEANING],
            "software_versions": __version__,
            "device_serial_number": self.weights_sha256[:MAX_MEANING],
            "series_description": f"{PROGRAM} {name}: research use only",
            "content_date": self.made_at.date(),
            "content_time": self.made_at.time(),
            "coding_schemes": [CodingSchemeIdentificationItem(SCHEME, name="Codes of histo_nb")],
        }


def open_job(home: Home, slide_id: str, *, source: Path | None) -> Job:
    """Return what is to be written of a slide's latest result; see `find_source` for errors."""
    row = home.catalog.slide(slide_id)
    folder = find_result(home, slide_id)
    result = read_result(folder)
    if result.predictions.empty:
        raise TableError(f"the result of {slide_id} has no tiles; analyse the slide again")
    _check_classes(result.classes)
    filed = home.catalog.results([slide_id]).iloc[0]
    return Job(
        result=result,
        source=find_source(row, source),
        made_at=datetime.fromisoformat(filed.analysed_at).astimezone(UTC),
        content_sha256=hash_result(folder),
        signature=find_signature(home.catalog.reviews([slide_id])),
    )


def _check_classes(classes: list[str]) -> None:
    said = [say(label) for label in classes]
    if any(not text.isprintable() for text in said) or len(set(said)) < len(said):
        raise TableError(
            f"classes {classes} cannot be told apart in DICOM, which holds {MAX_MEANING} printable "
            "letters of each; train with shorter names"
        )


def concept(name: str) -> CodedConcept:
    """Return our code of something that is measured, by its name in results."""
    return CodedConcept(name[:16].upper(), SCHEME, NAMES[name])


def class_concept(label: str, *, prefix: str = "CLASS") -> CodedConcept:
    """Return our code of a class, with its label as the words.

    >>> code = class_concept("adenoma")
    >>> code.value, code.meaning
    ('CLASS_0117b216', 'adenoma')
    """
    digits = hashlib.sha256(label.encode()).hexdigest()[:8]
    return CodedConcept(f"{prefix}_{digits}", SCHEME, say(label))


def say(text: str, length: int = MAX_MEANING) -> str:
    """Return a text as one value of a DICOM element: of one line, without what parts values."""
    return " ".join(text.replace("\\", "/").split())[:length]


def category(label: str, *, normal_class: str) -> Any:
    """Return what kind of thing a class is, in the words of the standard (CID 7150)."""
    if label == normal_class:
        return codes.SCT.Tissue
    return codes.SCT.MorphologicallyAbnormalStructure


def settle(dataset: Dataset, job: Job, name: str) -> Dataset:
    """Replace what highdicom takes from the clock and from chance; return the object."""
    dataset.InstanceCreationDate, dataset.InstanceCreationTime = (
        dataset.ContentDate,
        dataset.ContentTime,
    )
    dataset.TimezoneOffsetFromUTC = "+0000"
    if "SegmentationType" in dataset:
        dataset.PatientOrientation = ""  # it may be there, and old validators ask for it
    if "ContributingEquipmentSequence" in dataset:
        del dataset.ContributingEquipmentSequence  # the scanner and highdicom, with the time
    own = UID(job.uid(name, "dimensions"))
    for item in (*dataset.get("DimensionOrganizationSequence", []),
                 *dataset.get("DimensionIndexSequence", [])):  # fmt: skip
        item.DimensionOrganizationUID = own
    return dataset
