"""Recovery codes: how many are left, and new ones, which count once they are saved."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response

from starlette_otp.account.base import AccountView, site_of, user_of
from starlette_otp.account.forms import CodesForm
from starlette_otp.devices.static import StaticDeviceMixin
from starlette_otp.devices.users import called
from starlette_otp.service.enrolment import static_models
from starlette_otp.service.notices import FEW_CODES
from starlette_otp.web.urls import folder, way
from starlette_otp.web.verdict import verdict_of


def has_codes(request: Request) -> bool:
    """Whether the host declares a kind of device that holds them."""
    return bool(static_models(site_of(request).device_model))


async def codes_left(request: Request) -> int | None:
    """How many the user has left; None where the host has none for anybody."""
    if not has_codes(request):
        return None
    return await site_of(request).recovery_codes.left(user_of(request))


async def show_new_codes(view: AccountView, request: Request, is_first: bool = False) -> Response:
    """The page with new codes: they are shown by it alone, and count once it was answered."""
    has_old = not is_first and await codes_left(request)
    device, codes = await site_of(request).recovery_codes.prepare(user_of(request))
    text = f"Recovery codes of {called(user_of(request))} for {request.url.netloc}\n"
    text += "Each is good for signing in once.\n\n" + "".join(f"{code}\n" for code in codes)
    return view.render(
        request,
        "codes.html",
        form=CodesForm(request, formdata=None),
        codes=codes,
        device=device,
        is_first=is_first,
        has_old=has_old,
        may_have_lost=site_of(request).agents is not None and not is_first,
        file=f"data:text/plain;charset=utf-8,{quote(text)}",
        action=f"{folder(request)}/recovery-codes{way(request)}",
    )


class RecoveryCodesView(AccountView):
    """How many codes are left; new ones, after a question where there are old ones."""

    async def refusal(self, request: Request) -> Response | None:
        """404 where the host has none."""
        return await super().refusal(request) or (
            None if has_codes(request) else self.gone(request)
        )

    async def get(self, request: Request) -> Response:
        """How many there are. It never makes any."""
        return await self._show(request, CodesForm(request))

    async def post(self, request: Request) -> Response:
        """The question, the new codes, or their beginning to count."""
        form = await CodesForm.from_formdata(request)
        if not await form.validate_on_submit():
            return await self._show(request, form)
        if form.saved.data:
            otp, user = site_of(request), user_of(request)
            kept = await otp.recovery_codes.keep(user, form.device.data or "")
            if kept and form.lost.data and otp.agents is not None:
                await otp.agents.revoke_others(user, None)
            return (
                self.finish(request, "codes")
                if kept
                else await self._show(request, form, is_late=True)
            )
        if verdict_of(request).device is None:
            return await self._show(request, form)
        if form.sure.data or (form.new.data and await codes_left(request) == 0):
            return await show_new_codes(self, request)
        return await self._show(request, form, is_asking=bool(form.new.data))

    async def _show(
        self, request: Request, form: CodesForm, is_asking: bool = False, is_late: bool = False
    ) -> Response:
        found = await site_of(request).enrolment.devices_for_user(user_of(request))
        context: dict[str, Any] = {
            "form": form,
            "left": await codes_left(request),
            "few": FEW_CODES,
            "devices": [one for one in found if isinstance(one, StaticDeviceMixin)],
            "is_asking": is_asking,
            "is_late": is_late,
            # Alone they would be all that lets the user in.
            "needs_device": verdict_of(request).device is None,
        }
        return self.render(request, "recovery_codes.html", **context)
