"""The application of these tests, and a client of each transport."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from starlette_otp import OTP
from starlette_otp.models import EmailDevice
from tests.api.client import TRANSPORTS, Client, Mailbox, make_api


@pytest.fixture
def mailbox(monkeypatch: pytest.MonkeyPatch) -> Mailbox:
    """What EmailDevice has sent."""
    mailbox = Mailbox()
    monkeypatch.setattr(EmailDevice, "mailer", mailbox)
    return mailbox


@pytest.fixture
def api(otp: OTP) -> Any:
    return make_api(otp)


@pytest.fixture(params=TRANSPORTS)
def transport(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def client(api: Any, transport: str) -> AsyncIterator[Client]:
    async with Client(api, transport) as client:
        yield client
