"""Devices of one secret, and attempts that were turned away"""

from collections.abc import Sequence

import sqlalchemy as sa

from alembic import op

revision: str = "0007"
down_revision: str | Sequence[str] | None = "0006"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.add_column("otp_device", sa.Column("secret_digest", sa.String(length=64), nullable=True))
    op.add_column(
        "otp_device", sa.Column("turned_away_at", sa.DateTime(timezone=True), nullable=True)
    )


def downgrade() -> None:
    op.drop_column("otp_device", "turned_away_at")
    op.drop_column("otp_device", "secret_digest")
