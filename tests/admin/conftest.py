"""An application with the admin site, and who knocks at it."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker
from starlette.applications import Starlette

from starlette_otp import OTP
from starlette_otp.admin import OTPAdmin
from starlette_otp.models import TOTPDevice, User
from tests.support import Browser, CodesView, door, make_app, make_totp, make_user


@pytest.fixture
async def staff(sessions: async_sessionmaker[AsyncSession]) -> User:
    return await make_user(sessions, "alice", is_staff=True, email="alice@site.example")


@pytest.fixture
async def phone(sessions: async_sessionmaker[AsyncSession], staff: User) -> TOTPDevice:
    """The device of the member of staff."""
    return await make_totp(sessions, staff, name="phone")


@pytest.fixture
def app(otp: OTP, staff: User, phone: TOTPDevice) -> Starlette:
    """An application whose /enter verifies the member of staff."""
    return make_app(otp, door(otp, staff, phone), login_view=CodesView)


@pytest.fixture
def admin(app: Starlette, sessions: Any, otp: OTP) -> OTPAdmin:
    return OTPAdmin(app, sessions, otp=otp)


@pytest.fixture
async def anyone(app: Starlette, admin: OTPAdmin) -> AsyncIterator[Browser]:
    """A browser that nobody has signed in with."""
    async with Browser(app) as browser:
        yield browser


@pytest.fixture
async def desk(anyone: Browser) -> Browser:
    """The browser of the member of staff, verified."""
    assert (await anyone.get("/enter")).text == "in"
    return anyone
