"""Counts of challenges, and the browser that asked for one"""

from collections.abc import Sequence

import sqlalchemy as sa

from alembic import op

revision: str = "0006"
down_revision: str | Sequence[str] | None = "0005"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.create_table(
        "otp_challenge_limit",
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column(
            "sent_at", sa.ARRAY(sa.DateTime(timezone=True)), server_default="{}", nullable=False
        ),
        sa.Column("waiting_since", sa.DateTime(timezone=True), nullable=True),
        sa.Column("given_back", sa.Boolean(), server_default="false", nullable=False),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_otp_challenge_limit")),
    )
    op.add_column("otp_device", sa.Column("asked_by", sa.String(length=64), nullable=True))
    op.add_column("otp_device", sa.Column("answered_at", sa.DateTime(timezone=True), nullable=True))


def downgrade() -> None:
    op.drop_column("otp_device", "answered_at")
    op.drop_column("otp_device", "asked_by")
    op.drop_table("otp_challenge_limit")
