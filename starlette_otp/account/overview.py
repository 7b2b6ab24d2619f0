"""The overview: what protects the account."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from starlette_otp.account.base import AccountView, site_of, user_of
from starlette_otp.account.devices import offered
from starlette_otp.account.password import has_password
from starlette_otp.account.pending import is_waiting
from starlette_otp.account.recovery_codes import codes_left, has_codes
from starlette_otp.account.sessions import places_of
from starlette_otp.devices.static import StaticDeviceMixin
from starlette_otp.service.notices import FEW_CODES


class OverviewView(AccountView):
    """Devices, recovery codes and sessions on one page, in four SELECTs."""

    changes = False

    async def get(self, request: Request) -> Response:
        """The page."""
        otp, user = site_of(request), user_of(request)
        found = await otp.enrolment.devices_for_user(user, None)
        confirmed = [one for one in found if one.confirmed]
        codes = [one for one in confirmed if isinstance(one, StaticDeviceMixin)]
        context: dict[str, Any] = {
            "devices": [one for one in confirmed if one not in codes],
            "waiting": [one for one in found if is_waiting(one)],
            "kinds": offered(otp.device_model),
            "has_codes": has_codes(request),
            "left": await codes_left(request) if codes else 0,
            "few": FEW_CODES,
            "places": await places_of(request, confirmed),
            "has_password": has_password(request),
        }
        return self.render(request, "overview.html", **context)
