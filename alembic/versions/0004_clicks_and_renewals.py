"""The last accepted click of a device; a session's former token"""

from collections.abc import Sequence

import sqlalchemy as sa

from alembic import op

revision: str = "0004"
down_revision: str | Sequence[str] | None = "0003"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.add_column("otp_device", sa.Column("accepted_digest", sa.String(length=64), nullable=True))
    op.add_column("otp_session", sa.Column("former_digest", sa.String(length=64), nullable=True))
    op.add_column(
        "otp_session", sa.Column("former_until", sa.DateTime(timezone=True), nullable=True)
    )
    op.create_index(
        op.f("ix_otp_session_former_digest"), "otp_session", ["former_digest"], unique=False
    )


def downgrade() -> None:
    op.drop_index(op.f("ix_otp_session_former_digest"), table_name="otp_session")
    op.drop_column("otp_session", "former_until")
    op.drop_column("otp_session", "former_digest")
    op.drop_column("otp_device", "accepted_digest")
