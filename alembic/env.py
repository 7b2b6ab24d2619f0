"""Migrates the ready-made tables of starlette_otp.models in the database at DATABASE_URL."""

import asyncio

from sqlalchemy import pool
from sqlalchemy.engine import Connection
from sqlalchemy.ext.asyncio import create_async_engine

from alembic import context
from starlette_otp.models import VERSION_TABLE, Base, database_url

config = context.config


def configure(**options: object) -> None:
    context.configure(
        target_metadata=Base.metadata,
        version_table=VERSION_TABLE,
        include_name=ours,
        compare_server_default=True,
        **options,
    )
    with context.begin_transaction():
        context.run_migrations()


def ours(name: str | None, type_: str, parent_names: object) -> bool:
    """Only the ready-made tables: what else is in the database is not this history's affair."""
    return type_ != "table" or name in Base.metadata.tables


def run(connection: Connection) -> None:
    configure(connection=connection)


async def run_online(url: str) -> None:
    engine = create_async_engine(url, poolclass=pool.NullPool)
    async with engine.connect() as connection:
        await connection.run_sync(run)
        await connection.commit()
    await engine.dispose()


url = database_url(config.get_main_option("sqlalchemy.url"))
if context.is_offline_mode():
    configure(url=url, literal_binds=True)
else:
    asyncio.run(run_online(url))
