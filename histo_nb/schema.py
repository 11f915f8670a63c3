"""The catalogue's tables: slides, results, runs, events; hand labels, reviews; what arrives.

Nothing that names a person: `patient_id` is a pseudonym, barcodes and file names never stand here.
A change here is a new file in `migrations/versions`, and its number is the new `HEAD`.
"""

import sqlalchemy as sa

HEAD = "0003"  # the last migration; a catalogue of this version has the tables below
META = sa.MetaData()

SLIDES = sa.Table(
    "slides",
    META,
    sa.Column("slide_id", sa.String, primary_key=True),
    sa.Column("patient_id", sa.String),  # pseudonym; null = unknown
    sa.Column("slide_path", sa.String, nullable=False),
    sa.Column("sha256", sa.String(64), nullable=False, unique=True),
    sa.Column("n_bytes", sa.BigInteger, nullable=False),
    sa.Column("width", sa.BigInteger, nullable=False),  # level-0 px
    sa.Column("height", sa.BigInteger, nullable=False),
    sa.Column("n_levels", sa.Integer, nullable=False),
    sa.Column("slide_mpp", sa.Float, nullable=False),  # µm/px of level 0
    sa.Column("mpp_source", sa.String, nullable=False),  # "file", or "given" by a person
    sa.Column("objective_power", sa.Float),
    sa.Column("source", sa.String, nullable=False),  # "virtual scanner", "file"
    sa.Column("truth_path", sa.String),  # outlines of a virtual slide
    sa.Column("added_at", sa.String, nullable=False),  # ISO 8601, UTC
)
RESULTS = sa.Table(
    "results",
    META,
    sa.Column("slide_id", sa.ForeignKey("slides.slide_id"), primary_key=True),
    sa.Column("model_id", sa.String, primary_key=True),
    sa.Column("slide_class", sa.String, nullable=False),
    sa.Column("confidence", sa.Float, nullable=False),  # 0–1
    sa.Column("abnormal_fraction", sa.Float, nullable=False),  # of the tissue, 0–1
    sa.Column("n_tiles", sa.Integer, nullable=False),
    sa.Column("n_regions", sa.Integer, nullable=False),
    sa.Column("n_failures", sa.Integer, nullable=False),
    sa.Column("result_path", sa.String, nullable=False),  # folder of the slide's result
    sa.Column("analysed_at", sa.String, nullable=False),
    sa.Column("content_sha256", sa.String(64)),  # of that folder's files; null = from before
)
RUNS = sa.Table(
    "runs",
    META,
    sa.Column("run_id", sa.String, primary_key=True),
    sa.Column("notebook", sa.String, nullable=False),
    sa.Column("status", sa.String, nullable=False),  # "done", "failed"
    sa.Column("started_at", sa.String, nullable=False),
    sa.Column("seconds", sa.Float, nullable=False),
    sa.Column("run_path", sa.String, nullable=False),
)
EVENTS = sa.Table(
    "events",
    META,
    sa.Column("event_id", sa.Integer, primary_key=True),
    sa.Column("at", sa.String, nullable=False),
    sa.Column("who", sa.String, nullable=False),
    sa.Column("what", sa.String, nullable=False),
    # slide_id, model_id, file name in quarantine
    sa.Column("subject", sa.String, nullable=False, index=True),
    sa.Column("detail", sa.String),
    sa.Column("row_name", sa.String, index=True),  # "reviews/12"; null = it tells of no row
    sa.Column("row_sha256", sa.String(64)),  # of that row as it was written
    sa.Column("seal", sa.String(64)),  # of this event and all before; see history.py
)


SLIDE_FILES = sa.Table(
    "slide_files",
    META,
    sa.Column("slide_id", sa.ForeignKey("slides.slide_id"), primary_key=True),
    sa.Column("name", sa.String, primary_key=True),  # path below the folder of slides
    sa.Column("sha256", sa.String(64), nullable=False),
    sa.Column("n_bytes", sa.BigInteger, nullable=False),
    sa.Column("verified_at", sa.String),  # last time the bytes were hashed again
    sa.Column("damage", sa.String),  # what was found wrong then; null = nothing
)
QUARANTINE = sa.Table(
    "quarantine",
    META,
    sa.Column("quarantine_id", sa.String, primary_key=True),
    sa.Column("source", sa.String, nullable=False),  # as in slides
    sa.Column("step", sa.String, nullable=False),  # check that refused it: "structure", "mpp" …
    sa.Column("reason", sa.String, nullable=False),  # in words, with a way out
    sa.Column("n_bytes", sa.BigInteger, nullable=False),
    sa.Column("patient_id", sa.String),
    sa.Column("refused_at", sa.String, nullable=False),
    sa.Column("released_at", sa.String),  # null = still in quarantine
    sa.Column("slide_id", sa.String),  # what it became when it was released
)
ARRIVALS = sa.Table(
    "arrivals",
    META,
    sa.Column("fingerprint", sa.String(64), primary_key=True),  # keyed hash of place, size, time
    sa.Column("outcome", sa.String, nullable=False),  # slide_id or quarantine_id
    sa.Column("at", sa.String, nullable=False),
)
WAITING = sa.Table(
    "waiting",
    META,
    sa.Column("source", sa.String, primary_key=True),  # "hot folder", "dicom"
    sa.Column("tag", sa.String, primary_key=True),  # keyed hash of the file's place or series
    sa.Column("reason", sa.String, nullable=False),  # what it waits for, without names
    sa.Column("since", sa.String, nullable=False),
)
SCANS = sa.Table(
    "scans",
    META,
    sa.Column("rack_id", sa.String, primary_key=True),
    sa.Column("slot", sa.Integer, primary_key=True),  # from 1
    sa.Column(
        "slide_tag", sa.String
    ),  # keyed hash of the barcode, never the barcode; null = unread
    sa.Column("state", sa.String, nullable=False),  # see scanning.console
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("slide_id", sa.String),  # null = not filed
    sa.Column("reason", sa.String),  # why it failed
    sa.Column("updated_at", sa.String, nullable=False),
)
HAND_LABELS = sa.Table(  # one row a decision, never changed: an annotator's last one counts
    "hand_labels",
    META,
    sa.Column("decision_id", sa.Integer, primary_key=True),
    sa.Column("tile_id", sa.String, nullable=False, index=True),
    sa.Column("annotator", sa.String, nullable=False),
    sa.Column("label", sa.String),  # null = taken back
    sa.Column("decided_at", sa.String, nullable=False),
)
REVIEWS = sa.Table(  # one row a decision, never changed: a reviewer's last one on a subject counts
    "reviews",
    META,
    sa.Column("review_id", sa.Integer, primary_key=True),
    sa.Column("slide_id", sa.ForeignKey("slides.slide_id"), nullable=False, index=True),
    sa.Column("model_id", sa.String),  # whose answer was judged; null = none was
    sa.Column("kind", sa.String, nullable=False),  # slide, region, annotation, signature
    sa.Column("subject", sa.String, nullable=False),  # which region or annotation; "" = the slide
    sa.Column("verdict", sa.String),  # agree, disagree, drawn, signed; null = taken back
    sa.Column("label", sa.String),  # the class, if one was said
    sa.Column("note", sa.String),  # the reviewer's words, never a patient's name
    sa.Column("outline", sa.String),  # GeoJSON geometry, level-0 px
    sa.Column("reviewer", sa.String, nullable=False),
    sa.Column("reviewed_at", sa.String, nullable=False),
)
WORK = sa.Table(  # one row a slide and stage of a cohort; see running.cohort
    "work",
    META,
    sa.Column("work_key", sa.String(64), primary_key=True),  # hash of all that decides the output
    sa.Column("slide_id", sa.ForeignKey("slides.slide_id"), nullable=False, index=True),
    sa.Column("stage", sa.String, nullable=False),
    sa.Column("state", sa.String, nullable=False),  # waiting, leased, done, failed
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("worker", sa.String),  # who has the lease, or had it last
    sa.Column("token", sa.String),  # of the lease; only its holder may commit
    sa.Column("leased_until", sa.Float),  # seconds since 1970, by the database's clock
    sa.Column("output_sha256", sa.String(64)),
    sa.Column("seconds", sa.Float),
    sa.Column("reason", sa.String),  # why it failed, without names
    sa.Column("updated_at", sa.String, nullable=False),
)
