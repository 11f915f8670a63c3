"""The answer for a slide as a structured report, TID 1500 "Measurement Report".

It says what the model said, and is never verified: that is for a person, in the archive.
"""

from collections.abc import Iterator

import numpy as np
import shapely
from highdicom import sr
from pydicom.sr.codedict import codes
from pydicom.uid import generate_uid

from histo_nb import __version__
from histo_nb.annotations import Annotation
from histo_nb.export.dicom.job import PROGRAM, REGION, Job, category, class_concept, concept, say
from histo_nb.export.templates import USE
from histo_nb.export.words import say_time
from histo_nb.inference.trust import reasons_for_doubt

LISTED = 40  # regions in the report; the annotations have all
MAX_TEXT = 1000  # characters of a text; rules and doubts are a few lines
DECIMALS = 8  # of a measurement: DICOM writes numbers in 16 characters


def make_report_document(job: Job) -> sr.ComprehensiveSR:
    """Return the report: the slide's class and measurements, its largest regions, the model."""
    largest = list(enumerate(job.result.regions, 1))[:LISTED]
    report = sr.MeasurementReport(
        observation_context=_context(job),
        procedure_reported=codes.SCT.ImagingProcedure,
        imaging_measurements=[_slide_group(job), *(_region_group(job, n, r) for n, r in largest)],
        title=codes.DCM.ImagingMeasurementReport,
        referenced_images=job.source.levels,
    )
    options = job.options("report", 4)
    options["sop_instance_uid"] = job.uid("report", job.signature)  # signed, it is another one
    return sr.ComprehensiveSR(
        evidence=job.source.levels,
        content=report[0],
        is_complete=True,
        is_final=False,
        is_verified=False,  # a signature in the catalogue is told as a text, see `_comments`
        **options,
    )


def _context(job: Job) -> sr.ObservationContext:
    """Return who observes, the model as a device, and what, the specimen on the slide."""
    specimen = job.source.level0.SpecimenDescriptionSequence[0]
    device = sr.DeviceObserverIdentifyingAttributes(
        uid=generate_uid(entropy_srcs=[PROGRAM, job.result.model_id, job.weights_sha256]),
        name=job.result.model_id,
        manufacturer_name=PROGRAM,
        model_name=job.result.model_id,
        serial_number=job.weights_sha256,
    )
    observed = sr.SubjectContextSpecimen(
        uid=specimen.SpecimenUID,
        identifier=job.result.slide_id,
        container_identifier=job.result.slide_id,
        specimen_type=codes.SCT.TissueSection,
    )
    return sr.ObservationContext(
        observer_device_context=sr.ObserverContext(codes.DCM.Device, device),
        subject_context=sr.SubjectContext(codes.DCM.Specimen, observed),
    )


def _slide_group(job: Job) -> sr.MeasurementsAndQualitativeEvaluations:
    result = job.result
    told = [("slide_class", class_concept(result.slide_class)),
            ("gate_passed", codes.SCT.Yes if result.gate_passed else codes.SCT.No)]  # fmt: skip
    if job.signature:
        told.append(("signed_class", class_concept(job.signature["label"])))
    numbers = {"abnormal_fraction": result.abnormal_fraction, "confidence": result.confidence,
               "tissue_mm2": result.tissue_mm2, "n_tiles": result.n_tiles,
               "n_failures": result.n_failures}  # fmt: skip
    if result.score is not None:
        numbers["score"] = result.score
    group = sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=_tracking(job, "slide"),
        finding_type=class_concept(result.slide_class),
        finding_category=category(result.slide_class, normal_class=result.normal_class),
        algorithm_id=_algorithm(job),
        measurements=[_measure(name, value) for name, value in numbers.items()],
        qualitative_evaluations=[sr.QualitativeEvaluation(concept(n), code) for n, code in told],
        source_images=[sr.SourceImageForMeasurementGroup.from_source_image(job.source.level0)],
    )
    group[0].ContentSequence.extend(_comment(text) for text in _comments(job))
    return group


def _comments(job: Job) -> Iterator[str]:
    yield f"{USE}."
    yield f"Rule: {job.result.rule}"
    for doubt in reasons_for_doubt(job.result):
        yield f"Doubt: {doubt}"
    if job.signature:
        who, when = job.signature["reviewer"], say_time(job.signature["reviewed_at"])
        yield (
            f"Signed in {PROGRAM} by {who}, {when}, as {job.signature['label']}. This document "
            "itself is not verified."
        )
    if (n_more := len(job.result.regions) - LISTED) > 0:
        yield f"{n_more} smaller regions are not listed here; the annotations have them all."


def _region_group(
    job: Job, number: int, region: Annotation
) -> sr.PlanarROIMeasurementsAndQualitativeEvaluations:
    parts = shapely.get_parts(region.outline)
    largest = max(parts, key=lambda part: part.area)
    group = sr.PlanarROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=_tracking(job, f"region {number}"),
        referenced_region=sr.ImageRegion(
            graphic_type="POLYLINE",  # closed: that is an outline in a report
            graphic_data=np.asarray(largest.exterior.coords, np.float64),
            source_image=sr.SourceImageForRegion.from_source_image(job.source.level0),
            pixel_origin_interpretation="VOLUME",
        ),
        finding_type=class_concept(region.label),
        finding_category=category(region.label, normal_class=job.result.normal_class),
        algorithm_id=_algorithm(job),
        measurements=[_measure(name, region.measurements[name]) for name in REGION],
    )
    n_holes = sum(len(part.interiors) for part in parts)
    if len(parts) > 1 or n_holes:
        text = (
            "This outline is the outer one of the largest part. Parts of the region: "
            f"{len(parts)}; holes in it: {n_holes}. The annotations have it as it is."
        )
        group[0].ContentSequence.append(_comment(text))
    return group


def _measure(name: str, value: float) -> sr.Measurement:
    unit = codes.UCUM.SquareMillimeter if name.endswith("_mm2") else codes.UCUM.NoUnits
    return sr.Measurement(name=concept(name), value=round(float(value), DECIMALS), unit=unit)


def _tracking(job: Job, name: str) -> sr.TrackingIdentifier:
    return sr.TrackingIdentifier(uid=job.uid("report", name), identifier=name)


def _algorithm(job: Job) -> sr.AlgorithmIdentification:
    return sr.AlgorithmIdentification(
        name=job.result.model_id,
        version=__version__,
        parameters=[f"weights_sha256={job.weights_sha256}", f"runtime={job.result.runtime}"],
        family=codes.DCM.ArtificialIntelligence,
        manufacturer=PROGRAM,
    )


def _comment(text: str) -> sr.TextContentItem:
    return sr.TextContentItem(
        name=codes.DCM.Comment,
        value=say(text, MAX_TEXT),
        relationship_type=sr.RelationshipTypeValues.CONTAINS,
    )
