"""The tables of before there were migrations; those that are there already are taken over."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make the tables that are not there."""
    op.create_table(
        "slides",
        sa.Column("slide_id", sa.String(), primary_key=True),
        sa.Column("patient_id", sa.String()),
        sa.Column("slide_path", sa.String(), nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False, unique=True),
        sa.Column("n_bytes", sa.BigInteger(), nullable=False),
        sa.Column("width", sa.BigInteger(), nullable=False),
        sa.Column("height", sa.BigInteger(), nullable=False),
        sa.Column("n_levels", sa.Integer(), nullable=False),
        sa.Column("slide_mpp", sa.Float(), nullable=False),
        sa.Column("mpp_source", sa.String(), nullable=False),
        sa.Column("objective_power", sa.Float()),
        sa.Column("source", sa.String(), nullable=False),
        sa.Column("truth_path", sa.String()),
        sa.Column("added_at", sa.String(), nullable=False),
        if_not_exists=True,
    )
    op.create_table(
        "results",
        sa.Column("slide_id", sa.String(), sa.ForeignKey("slides.slide_id"), primary_key=True),
        sa.Column("model_id", sa.String(), primary_key=True),
        sa.Column("slide_class", sa.String(), nullable=False),
        sa.Column("confidence", sa.Float(), nullable=False),
        sa.Column("abnormal_fraction", sa.Float(), nullable=False),
        sa.Column("n_tiles", sa.Integer(), nullable=False),
        sa.Column("n_regions", sa.Integer(), nullable=False),
        sa.Column("n_failures", sa.Integer(), nullable=False),
        sa.Column("result_path", sa.String(), nullable=False),
        sa.Column("analysed_at", sa.String(), nullable=False),
        if_not_exists=True,
    )
    op.create_table(
        "runs",
        sa.Column("run_id", sa.String(), primary_key=True),
        sa.Column("notebook", sa.String(), nullable=False),
        sa.Column("status", sa.String(), nullable=False),
        sa.Column("started_at", sa.String(), nullable=False),
        sa.Column("seconds", sa.Float(), nullable=False),
        sa.Column("run_path", sa.String(), nullable=False),
        if_not_exists=True,
    )
    op.create_table(
        "events",
        sa.Column("event_id", sa.Integer(), primary_key=True),
        sa.Column("at", sa.String(), nullable=False),
        sa.Column("who", sa.String(), nullable=False),
        sa.Column("what", sa.String(), nullable=False),
        sa.Column("subject", sa.String(), nullable=False),
        sa.Column("detail", sa.String()),
        if_not_exists=True,
    )
    op.create_table(
        "slide_files",
        sa.Column("slide_id", sa.String(), sa.ForeignKey("slides.slide_id"), primary_key=True),
        sa.Column("name", sa.String(), primary_key=True),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("n_bytes", sa.BigInteger(), nullable=False),
        sa.Column("verified_at", sa.String()),
        sa.Column("damage", sa.String()),
        if_not_exists=True,
    )
    op.create_table(
        "quarantine",
        sa.Column("quarantine_id", sa.String(), primary_key=True),
        sa.Column("source", sa.String(), nullable=False),
        sa.Column("step", sa.String(), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("n_bytes", sa.BigInteger(), nullable=False),
        sa.Column("patient_id", sa.String()),
        sa.Column("refused_at", sa.String(), nullable=False),
        sa.Column("released_at", sa.String()),
        sa.Column("slide_id", sa.String()),
        if_not_exists=True,
    )
    op.create_table(
        "arrivals",
        sa.Column("fingerprint", sa.String(64), primary_key=True),
        sa.Column("outcome", sa.String(), nullable=False),
        sa.Column("at", sa.String(), nullable=False),
        if_not_exists=True,
    )
    op.create_table(
        "waiting",
        sa.Column("source", sa.String(), primary_key=True),
        sa.Column("tag", sa.String(), primary_key=True),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("since", sa.String(), nullable=False),
        if_not_exists=True,
    )
    op.create_table(
        "scans",
        sa.Column("rack_id", sa.String(), primary_key=True),
        sa.Column("slot", sa.Integer(), primary_key=True),
        sa.Column("slide_tag", sa.String()),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("slide_id", sa.String()),
        sa.Column("reason", sa.String()),
        sa.Column("updated_at", sa.String(), nullable=False),
        if_not_exists=True,
    )
    op.create_table(
        "hand_labels",
        sa.Column("decision_id", sa.Integer(), primary_key=True),
        sa.Column("tile_id", sa.String(), nullable=False),
        sa.Column("annotator", sa.String(), nullable=False),
        sa.Column("label", sa.String()),
        sa.Column("decided_at", sa.String(), nullable=False),
        if_not_exists=True,
    )
    op.create_index("ix_hand_labels_tile_id", "hand_labels", ["tile_id"], if_not_exists=True)
    op.create_table(
        "reviews",
        sa.Column("review_id", sa.Integer(), primary_key=True),
        sa.Column("slide_id", sa.String(), sa.ForeignKey("slides.slide_id"), nullable=False),
        sa.Column("model_id", sa.String()),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("subject", sa.String(), nullable=False),
        sa.Column("verdict", sa.String()),
        sa.Column("label", sa.String()),
        sa.Column("note", sa.String()),
        sa.Column("outline", sa.String()),
        sa.Column("reviewer", sa.String(), nullable=False),
        sa.Column("reviewed_at", sa.String(), nullable=False),
        if_not_exists=True,
    )
    op.create_index("ix_reviews_slide_id", "reviews", ["slide_id"], if_not_exists=True)
