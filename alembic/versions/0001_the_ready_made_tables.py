"""The ready-made tables"""

from collections.abc import Sequence

import sqlalchemy as sa

from alembic import op

revision: str = "0001"
down_revision: str | Sequence[str] | None = None
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.create_table(
        "otp_user",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("username", sa.String(length=254), nullable=False),
        sa.Column("email", sa.String(length=254), server_default="", nullable=False),
        sa.Column("password_hash", sa.String(length=255), server_default="", nullable=False),
        sa.Column("is_active", sa.Boolean(), server_default="true", nullable=False),
        sa.Column("is_staff", sa.Boolean(), server_default="false", nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_otp_user")),
        sa.UniqueConstraint("username", name=op.f("uq_otp_user_username")),
    )
    op.create_table(
        "otp_device",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("name", sa.String(length=64), server_default="", nullable=False),
        sa.Column("confirmed", sa.Boolean(), server_default="true", nullable=False),
        sa.Column("sealed_secret", sa.Text(), nullable=True),
        sa.Column("user_id", sa.BigInteger(), nullable=False),
        sa.Column("throttling_failure_count", sa.Integer(), server_default="0", nullable=False),
        sa.Column("throttling_failure_timestamp", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("last_used_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("step", sa.Integer(), nullable=True),
        sa.Column("t0", sa.BigInteger(), nullable=True),
        sa.Column("drift", sa.Integer(), nullable=True),
        sa.Column("last_t", sa.BigInteger(), nullable=True),
        sa.Column("digits", sa.Integer(), nullable=True),
        sa.Column("tolerance", sa.Integer(), nullable=True),
        sa.Column("algorithm", sa.String(length=8), nullable=True),
        sa.Column("counter", sa.BigInteger(), nullable=True),
        sa.Column("email", sa.String(length=254), nullable=True),
        sa.Column("token_digest", sa.String(length=64), nullable=True),
        sa.Column("valid_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("last_generated_timestamp", sa.DateTime(timezone=True), nullable=True),
        sa.Column("token_shape", sa.String(length=8), nullable=True),
        sa.ForeignKeyConstraint(
            ["user_id"], ["otp_user.id"], name=op.f("fk_otp_device_user_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_otp_device")),
    )
    op.create_index(op.f("ix_otp_device_user_id"), "otp_device", ["user_id"], unique=False)
    op.create_table(
        "otp_session",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("token_digest", sa.String(length=64), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("verified_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("user_agent", sa.String(length=255), server_default="", nullable=False),
        sa.Column("password_fingerprint", sa.String(length=64), nullable=False),
        sa.Column("user_id", sa.BigInteger(), nullable=False),
        sa.Column("device_id", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(
            ["device_id"],
            ["otp_device.id"],
            name=op.f("fk_otp_session_device_id"),
            ondelete="SET NULL",
        ),
        sa.ForeignKeyConstraint(
            ["user_id"], ["otp_user.id"], name=op.f("fk_otp_session_user_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_otp_session")),
        sa.UniqueConstraint("token_digest", name=op.f("uq_otp_session_token_digest")),
    )
    op.create_index(op.f("ix_otp_session_device_id"), "otp_session", ["device_id"], unique=False)
    op.create_index(op.f("ix_otp_session_expires_at"), "otp_session", ["expires_at"], unique=False)
    op.create_index(op.f("ix_otp_session_user_id"), "otp_session", ["user_id"], unique=False)
    op.create_table(
        "otp_static_token",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("device_id", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["device_id"],
            ["otp_device.id"],
            name=op.f("fk_otp_static_token_device_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_otp_static_token")),
        sa.UniqueConstraint(
            "device_id", "digest", name=op.f("uq_otp_static_token_device_id_digest")
        ),
    )


def downgrade() -> None:
    op.drop_table("otp_static_token")
    op.drop_index(op.f("ix_otp_session_user_id"), table_name="otp_session")
    op.drop_index(op.f("ix_otp_session_expires_at"), table_name="otp_session")
    op.drop_index(op.f("ix_otp_session_device_id"), table_name="otp_session")
    op.drop_table("otp_session")
    op.drop_index(op.f("ix_otp_device_user_id"), table_name="otp_device")
    op.drop_table("otp_device")
    op.drop_table("otp_user")
