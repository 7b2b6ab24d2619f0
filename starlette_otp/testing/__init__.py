"""What a host's test suite needs: verified clients, devices with a known secret, the contracts.

With pytest and FastAPI or Starlette:

    def test_the_vault_opens(otp, user):
        with TestClient(app) as client:
            verify(client, otp, user)
            assert client.get("/vault").status_code == 200

    async def test_a_token_opens_it(otp, user):
        device = await make_device(otp, user, TOTPDevice)
        assert await otp.match_token(user, token_at(device)) == device

`otp` is the application's own, and its database a real one; `starlette_otp.testing.plugin` has
fixtures of these names.
"""

import sys

if "pytest" in sys.modules:
    # Failures of the contracts are readable then; it has to be said before the import.
    for name in ("contract", "races"):
        sys.modules["pytest"].register_assert_rewrite(f"starlette_otp.testing.{name}")

from starlette_otp.testing.contract import DeviceContract
from starlette_otp.testing.database import rolled_back
from starlette_otp.testing.helpers import (
    KNOWN_SECRET,
    averify,
    make_device,
    token_at,
    verified_session,
    verify,
)
from starlette_otp.testing.races import RaceContract

__all__ = [
    "KNOWN_SECRET",
    "DeviceContract",
    "RaceContract",
    "averify",
    "make_device",
    "rolled_back",
    "token_at",
    "verified_session",
    "verify",
]
