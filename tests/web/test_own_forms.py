"""Forms, templates and views of the host's own."""

import time
from pathlib import Path
from typing import Any

import pytest
import time_machine
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from wtforms import BooleanField, StringField

from starlette_otp import OTP, OTPAuthenticationForm, OTPAuthenticationFormMixin, OTPTokenForm
from starlette_otp.models import Device, TOTPDevice, User
from starlette_otp.web.forms import BaseForm
from tests.support import (
    SECRET_KEY,
    Browser,
    CodesView,
    Sessions,
    codes,
    make_app,
    make_totp,
    reload,
    totp_token,
)

LOGIN = "/account/login"
LINK_PAGE = """{% extends "otp/login.html" %}
{% block heading %}Your link{% endblock %}
{% block fields %}{{ form.link }} {{ form.otp_device }} {{ form.otp_token }}
{{ form.link.errors | join }}{% endblock %}"""


@pytest.fixture
async def device(sessions: Sessions, alice: User) -> TOTPDevice:
    return await make_totp(sessions, alice, name="phone")


@pytest.fixture
def link_app(sessions: Sessions, alice: User, tmp_path: Path) -> Any:
    """An application whose first factor is a link from a mail."""

    class LinkForm(OTPAuthenticationFormMixin, BaseForm):
        error_messages = {"link_unknown": "This link is too old."}

        link = StringField()

        async def validate(self, extra_validators: Any = None) -> bool:
            if not await super().validate(extra_validators):
                return False
            if self.link.data != "alice's link":
                self.add_error("link_unknown", self.link)
                return False
            return await self.clean_otp(alice)

    class View(CodesView):
        authentication_form = LinkForm
        template_name = "link.html"

    (tmp_path / "link.html").write_text(LINK_PAGE)
    otp = OTP(sessions, Device, secret_key=SECRET_KEY, templates=tmp_path)
    return make_app(otp, login_view=View)


async def test_a_first_factor_that_is_no_password(
    link_app: Any, sessions: Sessions, device: TOTPDevice
) -> None:
    """A form of one's own logs in by its own first factor and our second one."""
    async with Browser(link_app) as browser:
        assert "Your link" in (await browser.get(LOGIN)).text
        answer = await browser.submit(LOGIN, link="alice's link", otp_token=totp_token())
        assert answer.status_code == 303
        assert (await browser.state())["device"] == device.persistent_id


async def test_its_errors_are_its_own_and_ours(
    link_app: Any, sessions: Sessions, device: TOTPDevice
) -> None:
    """The host's codes and ours live side by side, and a wrong first factor asks no device."""
    async with Browser(link_app) as browser:
        page = await browser.submit(LOGIN, link="no", otp_token="000000")
        assert codes(page) == ["link_unknown"]
        assert "This link is too old." in page.text
        assert device.persistent_id not in page.text
        assert (await reload(sessions, device)).throttling_failure_count == 0
        page = await browser.submit(LOGIN, link="alice's link", otp_token="000000")
        assert codes(page) == ["invalid_token"]
        assert f'value="{device.persistent_id}"' in page.text
        page = await browser.post(LOGIN, data={"link": "alice's link"})
        assert codes(page) == ["csrf_failed"]
        assert not (await browser.state())["authenticated"]


async def test_a_field_more(otp: OTP, sessions: Sessions, device: TOTPDevice) -> None:
    """A subclass adds a field and a check of its own to the shipped form."""

    class Form(OTPAuthenticationForm):
        error_messages = {"terms": "Please accept the terms."}

        terms = BooleanField()

        async def authenticate(self) -> Any:
            if not self.terms.data:
                self.add_error("terms", self.terms)
                return None
            return await super().authenticate()

    class View(CodesView):
        authentication_form = Form

    async with Browser(make_app(otp, login_view=View)) as browser:
        assert codes(await browser.log_in(totp_token())) == ["terms"]
        assert (await browser.log_in(totp_token(), terms="y")).status_code == 303


async def test_a_token_form_of_ones_own(
    otp: OTP, sessions: Sessions, alice: User, device: TOTPDevice
) -> None:
    """A subclass of the token form takes its place in the view."""

    class Form(OTPTokenForm):
        otp_error_messages = {"token_required": "And the token?"}

        async def device_choices(self, user: object) -> list[tuple[str, str]]:
            return [(value, f"my {name}") for value, name in await super().device_choices(user)]

    class View(CodesView):
        token_form = Form

    async with Browser(make_app(otp, login_view=View)) as browser:
        await browser.log_in(totp_token())
        await make_totp(sessions, alice, name="tablet")
        page = await browser.submit(f"{LOGIN}?reverify=1")
        assert "And the token?" in page.text
        assert "my Authenticator app · tablet" in page.text


async def pay(request: Request) -> Response:
    form = await OTPTokenForm.from_formdata(request, user=request.user)
    if await form.validate_on_submit():
        return JSONResponse({"paid_with": form.get_user().otp_device.persistent_id})
    return JSONResponse(
        {
            "codes": form.error_codes,
            "errors": form.errors,
            "devices": form.otp_device.choices,
            "csrf_token": form.csrf_token.current_token,
        }
    )


async def test_the_token_form_in_a_view_of_ones_own(
    otp: OTP, sessions: Sessions, device: TOTPDevice
) -> None:
    """A host asks for a token where it wants one; the form works for JSON, too."""
    app = make_app(otp, Route("/pay", pay, methods=["GET", "POST"]))
    now = time.time()
    async with Browser(app) as browser:
        with time_machine.travel(now, tick=False):
            await browser.log_in(totp_token())
        with time_machine.travel(now + 60, tick=False):
            asked = (await browser.get("/pay")).json()
            assert asked["codes"] == []
            assert asked["devices"] == [[device.persistent_id, "Authenticator app · phone"]]
            answer = await browser.post("/pay", json={"otp_token": totp_token()})
            assert answer.json()["codes"] == ["csrf_failed"]
            body = {"csrf_token": asked["csrf_token"]}
            answer = await browser.post("/pay", json=body)
            assert answer.json()["errors"] == {"otp_token": ["Please enter the code."]}
            answer = await browser.post("/pay", json={**body, "otp_token": totp_token()})
            assert answer.json() == {"paid_with": device.persistent_id}
