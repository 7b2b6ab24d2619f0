"""Tickets, and fingerprints of sessions' rows; sessions from before end"""

from collections.abc import Sequence

import sqlalchemy as sa

from alembic import op

revision: str = "0008"
down_revision: str | Sequence[str] | None = "0007"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    # They are nobody's: their fingerprints say nothing of the row.
    op.execute("DELETE FROM otp_session")
    op.add_column(
        "otp_session", sa.Column("device_fingerprint", sa.String(length=64), nullable=True)
    )
    op.add_column(
        "otp_session",
        sa.Column("is_ticket", sa.Boolean(), server_default="false", nullable=False),
    )


def downgrade() -> None:
    op.execute("DELETE FROM otp_session")
    op.drop_column("otp_session", "is_ticket")
    op.drop_column("otp_session", "device_fingerprint")
