"""Trusted browsers"""

from collections.abc import Sequence

import sqlalchemy as sa

from alembic import op

revision: str = "0012"
down_revision: str | Sequence[str] | None = "0011"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    when = sa.DateTime(timezone=True)
    op.create_table(
        "otp_agent",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("token_digest", sa.String(64), nullable=False),
        sa.Column("former_digest", sa.String(64), nullable=True),
        sa.Column("former_until", when, nullable=True),
        sa.Column("lost_digest", sa.String(64), nullable=True),
        sa.Column("trusted_at", when, nullable=False),
        sa.Column("trust_days_given", sa.Float(), nullable=True),
        sa.Column("last_seen_at", when, nullable=False),
        sa.Column("rotated_at", when, nullable=False),
        sa.Column("user_agent", sa.String(255), server_default="", nullable=False),
        sa.Column("fingerprint", sa.String(64), nullable=False),
        sa.Column("user_id", sa.BigInteger(), nullable=False),
        sa.Column("device_id", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(
            ["user_id"], ["otp_user.id"], name=op.f("fk_otp_agent_user_id"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["device_id"],
            ["otp_device.id"],
            name=op.f("fk_otp_agent_device_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_otp_agent")),
        sa.UniqueConstraint("token_digest", name=op.f("uq_otp_agent_token_digest")),
    )
    for column in ("former_digest", "user_id", "device_id"):
        op.create_index(op.f(f"ix_otp_agent_{column}"), "otp_agent", [column])
    op.add_column("otp_session", sa.Column("agent_id", sa.BigInteger(), nullable=True))
    op.add_column(
        "otp_session",
        sa.Column("is_trusted", sa.Boolean(), server_default="false", nullable=False),
    )


def downgrade() -> None:
    # A session that began by trust alone is none without it.
    op.execute("DELETE FROM otp_session WHERE agent_id IS NOT NULL")
    op.drop_column("otp_session", "is_trusted")
    op.drop_column("otp_session", "agent_id")
    op.drop_table("otp_agent")
