"""The last accepted click of a device; a session's former token"""

from collections.abc import Sequence

import sqlalchemy as sa

from alembic import op

revision: str = "0002"
down_revision: str | Sequence[str] | None = "0001"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.add_column("otp_device", sa.Column("accepted_digest", sa.String(length=64), nullable=True))


def downgrade() -> None:
    op.drop_column("otp_device", "accepted_digest")
