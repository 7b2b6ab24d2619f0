"""Users of SQLModel, with devices beside them; where it is installed."""

from typing import Any

import pytest
from sqlalchemy import MetaData
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.orm import DeclarativeBase

from starlette_otp import ConfigurationError
from starlette_otp.devices import DeviceMixin
from tests.hosts import make_host
from tests.support import password_hash
from tests.tour import NAME, tour

sqlmodel = pytest.importorskip("sqlmodel")


class Model(sqlmodel.SQLModel):  # type: ignore[misc, name-defined]
    """With tables of its own, apart from those of other tests."""

    metadata = MetaData()


class Member(Model, table=True):  # type: ignore[call-arg]
    id: int | None = sqlmodel.Field(default=None, primary_key=True)
    username: str
    password_hash: str
    is_active: bool = True
    is_staff: bool = False


class PlainBase(DeclarativeBase):
    """As README says."""

    metadata = Model.metadata


async def test_users_of_sqlmodel(empty_engine: AsyncEngine) -> None:
    """Their devices are on a plain base, in SQLModel's metadata."""
    models = make_host(lambda base: Member, PlainBase)
    assert "otp_device" in Model.metadata.tables
    person = Member(username=NAME, password_hash=password_hash(), is_staff=True)
    await tour(models, person, empty_engine)


def test_sqlmodel_is_no_base_of_devices() -> None:
    """The error says what base they want."""
    bases: Any = (DeviceMixin, sqlmodel.SQLModel)
    with pytest.raises(ConfigurationError, match=r"Refused .* metadata = SQLModel\.metadata"):

        class Refused(*bases, table=True):  # type: ignore[misc]
            __user_model__ = Member
