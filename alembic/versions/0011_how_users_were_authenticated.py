"""How users of sessions were authenticated; when recovery codes were made"""

from collections.abc import Sequence

import sqlalchemy as sa

from alembic import op

revision: str = "0011"
down_revision: str | Sequence[str] | None = "0010"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.add_column("otp_session", sa.Column("amr", sa.String(128), nullable=True))
    made = sa.Column("created_at", sa.DateTime(timezone=True), nullable=True)
    op.add_column("otp_static_token", made)


def downgrade() -> None:
    op.drop_column("otp_static_token", "created_at")
    op.drop_column("otp_session", "amr")
