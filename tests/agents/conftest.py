"""The application with JSON routes."""

from typing import Any

import pytest

from starlette_otp import OTP
from tests.api.client import make_api


@pytest.fixture
def api(otp: OTP) -> Any:
    return make_api(otp)
