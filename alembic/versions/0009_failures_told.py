"""Failures that were told with a success at another device"""

from collections.abc import Sequence

import sqlalchemy as sa

from alembic import op

revision: str = "0009"
down_revision: str | Sequence[str] | None = "0008"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.add_column(
        "otp_device",
        sa.Column("failures_told", sa.Integer(), server_default="0", nullable=False),
    )


def downgrade() -> None:
    op.drop_column("otp_device", "failures_told")
