"""Lengths of static tokens of digits only"""

from collections.abc import Sequence

import sqlalchemy as sa

from alembic import op

revision: str = "0003"
down_revision: str | Sequence[str] | None = "0002"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.add_column("otp_device", sa.Column("digit_lengths", sa.String(length=255), nullable=True))


def downgrade() -> None:
    op.drop_column("otp_device", "digit_lengths")
