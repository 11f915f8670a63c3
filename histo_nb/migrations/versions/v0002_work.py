"""The ledger of cohorts; a result knows the hash of its files."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add the table `work` and the column `results.content_sha256`."""
    op.create_table(
        "work",
        sa.Column("work_key", sa.String(64), primary_key=True),
        sa.Column("slide_id", sa.String(), sa.ForeignKey("slides.slide_id"), nullable=False),
        sa.Column("stage", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("worker", sa.String()),
        sa.Column("token", sa.String()),
        sa.Column("leased_until", sa.Float()),
        sa.Column("output_sha256", sa.String(64)),
        sa.Column("seconds", sa.Float()),
        sa.Column("reason", sa.String()),
        sa.Column("updated_at", sa.String(), nullable=False),
    )
    op.create_index("ix_work_slide_id", "work", ["slide_id"])
    op.add_column("results", sa.Column("content_sha256", sa.String(64)))
