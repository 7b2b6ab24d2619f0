"""LoginView and LogoutView, and the routes to mount them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from starlette.endpoints import HTTPEndpoint
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

from starlette_otp.exceptions import DatabaseUnavailable, DeviceRejected
from starlette_otp.resources import TEMPLATES
from starlette_otp.web.base_form import BaseForm
from starlette_otp.web.body import MAX_BODY, submitted
from starlette_otp.web.browser import remember
from starlette_otp.web.forms import LogoutForm, OTPAuthenticationForm, OTPTokenForm, PasswordForm
from starlette_otp.web.held import let_in
from starlette_otp.web.login import log_in, log_out, login
from starlette_otp.web.refusals import REVERIFY_PARAMETER
from starlette_otp.web.responses import (
    HEADERS,
    accepts_html,
    page,
    to_enrolment,
    too_many,
    unavailable,
)
from starlette_otp.web.urls import local_url, safe_path
from starlette_otp.web.user import device_of
from starlette_otp.web.verdict import verdict_of


class OTPEndpoint(HTTPEndpoint):
    """A view of ours: a database that is away is 503 in all of them."""

    redirect_field_name: ClassVar[str] = "next"

    async def dispatch(self) -> None:
        """Answer the request, or 503."""
        request = Request(self.scope, receive=self.receive)
        if not self.scope["query_string"].isascii():
            raise HTTPException(400, "The query has to be ASCII.")
        try:
            verdict = verdict_of(request)
            if verdict.away:
                raise DatabaseUnavailable()
            let_in(request.scope, verdict)
            refusal = await self.refusal(request)
            if verdict.otp.browsers is not None:
                await verdict.otp.browsers.of(request, verdict)
            if refusal is not None:
                await refusal(self.scope, self.receive, self.send)
                return
            await super().dispatch()
        except DatabaseUnavailable:
            await unavailable(request)(self.scope, self.receive, self.send)

    async def refusal(self, request: Request) -> Response | None:
        """The answer to who may not see this view; None for who may."""
        return None

    async def next_url(self, request: Request) -> str:
        """Where to go after success: `next` if it stays on this site, else the default."""
        name = self.redirect_field_name
        wanted = request.query_params.get(name) or (await request.form()).get(name)
        return on_this_site(request, wanted)


class LoginView(OTPEndpoint):
    """Log in, verify, or verify again.

    Anonymous or verified users are asked for name and password, then for the token; in between
    they are anonymous, and a ticket stands for the password. A request that brings all three is
    answered in one go. Users who are authenticated but not verified, or are asked to verify again,
    meet the token alone. A subclass changes the attributes.
    """

    authentication_form: ClassVar[type[BaseForm]] = OTPAuthenticationForm
    token_form: ClassVar[type[BaseForm]] = OTPTokenForm
    password_form: ClassVar[type[BaseForm]] = PasswordForm
    """With `OTP(password_is_enough=True)`, for a request that brings a password and no token."""
    template_name: ClassVar[str] = "otp/login.html"
    two_stage: ClassVar[bool] = True
    """The password's page first, then the token's. False: name, password and token on one page."""

    async def refusal(self, request: Request) -> Response | None:
        """On to the enrolment, for who is signed in and has no device that could be asked."""
        verdict = verdict_of(request)
        # Who posts has been shown the form: they have a device, or are told that they have none.
        is_asked = verdict.user is not None and verdict.device is None and request.method != "POST"
        if not is_asked or not verdict.otp.has_account_pages:
            return None
        if await verdict.otp.enrolment.user_has_device(verdict.user):
            return None
        return self.to_enrolment(request, await self.next_url(request))

    def to_enrolment(self, request: Request, target: str) -> Response:
        """303 to where a device is set up, and then on to `target`."""
        return to_enrolment(request, target)

    async def get(self, request: Request) -> Response:
        """The form."""
        return self.render(request, await self.make_form(request))

    async def post(self, request: Request) -> Response:
        """303 after success, else the form again; 303 for the second of two clicks, too."""
        form: Any = await self.make_form(request)
        if self.is_late(request, form):
            return RedirectResponse(await self.next_url(request), 303, HEADERS)
        if await form.validate_on_submit():
            try:
                return await self.success(request, form)
            except DeviceRejected:
                # The device or the user went between the check and the session.
                token = getattr(form, "otp_token", None)
                form.add_error("invalid_login" if token is None else "invalid_token", token)
        elif getattr(form, "is_repeated", False):
            return RedirectResponse(await self.next_url(request), 303, HEADERS)
        refusal = getattr(form, "too_many", None)
        if refusal is not None and not accepts_html(request):
            return too_many(refusal)
        return self.render(request, form)

    def is_late(self, request: Request, form: Any) -> bool:
        """Whether this is the second of two clicks, of which the first has verified the session."""
        verdict, token = verdict_of(request), getattr(form, "otp_token", None)
        if verdict.device is None or token is None or not token.data:
            return False
        return verdict.otp.verification.is_repeated(verdict.device, token.data, form.browser)

    async def make_form(self, request: Request) -> BaseForm:
        """The form for who asks."""
        verdict = verdict_of(request)
        again = verdict.device is None or request.query_params.get(REVERIFY_PARAMETER)
        if verdict.user is not None and again:
            return await self.token_form.from_formdata(request, user=verdict.user)
        if not verdict.otp.password_is_enough:
            return await self.authentication_form.from_formdata(request)
        fields = await submitted(request)
        alone = self.two_stage
        if fields is not None:
            # Without a password a ticket may stand for it, on the page that asks for the token.
            alone = bool(fields.get("password")) and not fields.get("otp_token")
        first = self.password_form if alone else self.authentication_form
        return await first.from_formdata(request, formdata=fields)

    async def success(self, request: Request, form: Any) -> Response:
        """Begin or verify the session and send the user on."""
        user, target = form.get_user(), await self.next_url(request)
        if isinstance(form, self.token_form):
            await login(request, device_of(user))
        else:
            await log_in(request, user)
            verdict = verdict_of(request)
            if verdict.device_due is not None:
                return self.to_enrolment(request, target)
            if verdict.otp.password_is_enough and verdict.device is None and not verdict.by_trust:
                if await verdict.otp.enrolment.user_has_device(user):
                    here = request.url.replace(scheme="", netloc="")
                    target = str(here.include_query_params(**{self.redirect_field_name: target}))
                else:
                    remember(request, verdict, user)
        return RedirectResponse(target, 303, HEADERS)

    def render(self, request: Request, form: Any) -> Response:
        """The page with the form."""
        context = {
            "form": form,
            "stage": self.stage(form),
            "logout_form": LogoutForm(request),
            "signed_in": verdict_of(request).user,
            "next_url": on_this_site(request, request.query_params.get(self.redirect_field_name)),
        }
        return page(request, self.template_name, context)

    def stage(self, form: BaseForm) -> str:
        """Which page it is.

        "password" asks for the password and not for a token, "token" for a token of who is
        authenticated; "login" for both, or for the token alone once `form.password_accepted`.
        """
        if isinstance(form, self.token_form):
            return "token"
        if not hasattr(form, "otp_token"):
            return "password"
        # Where users can't be loaded no ticket can stand for the password.
        in_steps = self.two_stage and form.otp.users.can_be_loaded
        is_first = getattr(form, "password_accepted", None) is False
        return "password" if in_steps and is_first else "login"


class LogoutView(OTPEndpoint):
    """Log out, by POST with a CSRF token."""

    template_name: ClassVar[str] = "otp/logout.html"

    async def get(self, request: Request) -> Response:
        """The page with the button: a link to it logs nobody out."""
        return self.render(request, LogoutForm(request))

    async def post(self, request: Request) -> Response:
        """303 after success; 403 and a page with the button when the request looks forged."""
        form = await LogoutForm.from_formdata(request)
        if not await form.validate_on_submit():
            return self.render(request, form, 403)
        target = await self.next_url(request)
        await log_out(request)
        return RedirectResponse(target, 303, HEADERS)

    def render(self, request: Request, form: Any, status_code: int = 200) -> Response:
        """The page with the button, and who is signed in."""
        context = {"form": form, "signed_in": verdict_of(request).user}
        return page(request, self.template_name, context, status_code)


def routes(login_view: type[HTTPEndpoint] = LoginView) -> Sequence[BaseRoute]:
    """The routes for a `Mount(..., name="otp")`: login, logout and the stylesheet."""
    return [
        Route("/login", login_view, name="login", max_body_size=MAX_BODY),
        Route("/logout", LogoutView, name="logout", max_body_size=MAX_BODY),
        Mount("/static", StaticFiles(directory=TEMPLATES / "otp" / "static"), name="static"),
    ]


def on_this_site(request: Request, wanted: object) -> str:
    """`wanted` if it stays on this site, else where people go without a `next`."""
    verdict = verdict_of(request)
    return safe_path(request, wanted) or local_url(verdict, verdict.otp.login_redirect_url)
