"""The site's door: its log-in form, for staff alone, and log-out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from starlette_otp.admin.gate import AdminSite, allows
from starlette_otp.devices.users import is_active
from starlette_otp.web.base_form import BaseForm
from starlette_otp.web.forms import LogoutForm, OTPAuthenticationForm
from starlette_otp.web.journal import login_failed
from starlette_otp.web.refusals import REVERIFY_PARAMETER
from starlette_otp.web.responses import HEADERS, page, to_enrolment
from starlette_otp.web.urls import our_mount, safe_path
from starlette_otp.web.verdict import verdict_of
from starlette_otp.web.views import LoginView, LogoutView


def is_staff(user: Any) -> bool:
    """Whether the user is active and staff; one without `is_staff` is not."""
    return user is not None and is_active(user) and bool(getattr(user, "is_staff", False))


class OTPAdminAuthenticationForm(OTPAuthenticationForm):
    """Name, password and token of an active member of staff.

    Anyone else is refused before a token is asked for or a session begun.
    """

    error_messages: ClassVar[Mapping[str, str]] = {
        "not_staff": "This account may not use this site.",
    }

    def may_enter(self, user: Any) -> bool:
        """Whether this user's token is worth asking for."""
        return is_staff(user)

    async def authenticate(self) -> Any | None:
        """The user of the typed credentials or of the ticket, if they are staff."""
        user = await super().authenticate()
        if user is not None and not self.may_enter(user):
            self.add_error("not_staff")
            await login_failed(self.otp, self._request, user, "not_staff")
            return None
        return user


class OTPAdminLoginView(LoginView):
    """The site's log-in; `site` is its OTPAdmin.

    Staff who are authenticated already meet the token alone, all others the whole form.
    """

    site: ClassVar[AdminSite]
    authentication_form: ClassVar[type[BaseForm]] = OTPAdminAuthenticationForm
    password_form: ClassVar[type[BaseForm]] = OTPAdminAuthenticationForm

    async def refusal(self, request: Request) -> Response | None:
        """On to the enrolment, for staff; others are told that they may not use this site."""
        return await super().refusal(request) if is_staff(verdict_of(request).user) else None

    def to_enrolment(self, request: Request, target: str) -> Response:
        """303 to the application's own pages."""
        mount = our_mount(verdict_of(request))
        return to_enrolment(request, target, mount)

    async def get(self, request: Request) -> Response:
        """The form; who may enter already is sent on."""
        again = request.query_params.get(REVERIFY_PARAMETER)
        if not again and await allows(self.site, request):
            return RedirectResponse(await self.next_url(request), 303, HEADERS)
        return await super().get(request)

    async def make_form(self, request: Request) -> BaseForm:
        """The form for who asks."""
        user = verdict_of(request).user
        if user is not None and not is_staff(user):
            form = await self.authentication_form.from_formdata(request)
        else:
            form = await super().make_form(request)
        if isinstance(form, OTPAuthenticationForm):
            form.takes_trust = self.site.accept_trusted_agent
        return form

    async def next_url(self, request: Request) -> str:
        """Where to go after success: `next` if it stays here, else the site's first page."""
        wanted = request.query_params.get(self.redirect_field_name)
        return safe_path(request, wanted) or f"{request.scope.get('root_path', '')}/"

    def render(self, request: Request, form: Any) -> Response:
        """The page with the form."""
        context = {
            "form": form,
            "stage": self.stage(form),
            "logout_form": LogoutForm(request),
            "site": self.site,
            "signed_in": verdict_of(request).user,
        }
        return page(request, self.template_name, context)


class OTPAdminLogoutView(LogoutView):
    """Log out of the application, by POST with a CSRF token, and come back to the log-in."""

    async def next_url(self, request: Request) -> str:
        """The site's log-in."""
        return f"{request.scope.get('root_path', '')}/login"
