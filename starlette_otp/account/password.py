"""The password: a new one, and the one of now where nothing else says who it is."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from starlette_otp.account.base import AccountView, can_ask_password, site_of, user_of
from starlette_otp.account.forms import CurrentPasswordForm, NewPasswordForm
from starlette_otp.exceptions import DeviceRejected
from starlette_otp.web.claims import PASSWORD
from starlette_otp.web.login import log_in
from starlette_otp.web.new_password import change_password
from starlette_otp.web.responses import HEADERS
from starlette_otp.web.urls import folder
from starlette_otp.web.verdict import verdict_of


def has_password(request: Request) -> bool:
    """Whether users' passwords can be changed here."""
    return hasattr(site_of(request).users.model, "set_password")


class PasswordView(AccountView):
    """A new password; all other sessions end."""

    asks_password = True

    async def refusal(self, request: Request) -> Response | None:
        """404 where passwords are somebody else's business."""
        return await super().refusal(request) or (
            None if has_password(request) else self.gone(request)
        )

    async def get(self, request: Request) -> Response:
        """The form."""
        return self._show(request, NewPasswordForm(request))

    async def post(self, request: Request) -> Response:
        """303 after success, else the form again."""
        form = await NewPasswordForm.from_formdata(request)
        if not await form.validate_on_submit() or not await self._accepts(request, form):
            return self._show(request, form)
        try:
            await change_password(site_of(request), request, form.password.data)
        except ValueError as exc:
            form.add_error("invalid_password", form.password, reason=str(exc))
            return self._show(request, form)
        except DeviceRejected:
            # This session has ended meanwhile, and the password is the old one.
            return RedirectResponse(f"{folder(request)}/login", 303, HEADERS)
        return self.finish(request, "password")

    async def _accepts(self, request: Request, form: NewPasswordForm) -> bool:
        if not form.password.data:
            form.add_error("password_required", form.password)
            return False
        return not self._asks(request) or await form.check_current(user_of(request))

    def _asks(self, request: Request) -> bool:
        return verdict_of(request).device is None and can_ask_password(request)

    def _show(self, request: Request, form: NewPasswordForm) -> Response:
        shortest = getattr(site_of(request).users.model, "min_password_length", None)
        asks = self._asks(request)
        return self.render(request, "password.html", form=form, asks=asks, shortest=shortest)


class ReauthenticateView(AccountView):
    """The password once more, of who has no device; then on to `next`."""

    enrols = True
    changes = False

    async def refusal(self, request: Request) -> Response | None:
        """On to `next` where a device says who it is."""
        is_verified = verdict_of(request).device is not None
        return await super().refusal(request) or (self.finish(request) if is_verified else None)

    async def get(self, request: Request) -> Response:
        """The form; a button that signs out where nobody here can check a password."""
        return self._show(request, CurrentPasswordForm(request))

    async def post(self, request: Request) -> Response:
        """303 after success: the session begins anew."""
        form = await CurrentPasswordForm.from_formdata(request)
        is_good = await form.validate_on_submit() and can_ask_password(request)
        if is_good and await form.check_current(user_of(request)):
            await log_in(request, verdict_of(request).user, amr=[PASSWORD])
            return self.finish(request)
        return self._show(request, form)

    def _show(self, request: Request, form: CurrentPasswordForm) -> Response:
        can_ask = can_ask_password(request)
        return self.render(request, "reauthenticate.html", form=form, can_ask=can_ask)
