"""The forms: name, password and token, in one go or one after the other; or a token alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, ClassVar, Self

from starlette.requests import Request
from wtforms import BooleanField, PasswordField, SelectField, StringField, SubmitField

from starlette_otp import clock
from starlette_otp.devices.policies import VerifyNotAllowed
from starlette_otp.exceptions import TooManyAttempts
from starlette_otp.web import ticket
from starlette_otp.web.base_form import BaseForm, merged
from starlette_otp.web.journal import client_of
from starlette_otp.web.password import authenticate, wait_of
from starlette_otp.web.trust import can_trust, stands_for_a_token, want_trust
from starlette_otp.web.user import attach
from starlette_otp.web.verdict import verdict_of
from starlette_otp.web.ways import Way, ways_of


class LogoutForm(BaseForm):
    """Nothing but the CSRF token, for a button that logs out."""


class PasswordForm(BaseForm):
    """Username and password. The password is never written back into the page.

    Attributes:
        too_many: why no password was tried, if none was.
    """

    error_messages: ClassVar[Mapping[str, str]] = {
        **BaseForm.error_messages,
        "username_required": "Please enter your username.",
        "password_required": "Please enter your password.",
        "invalid_login": "That username and password do not match. Please check both.",
        "too_many_attempts": "There were too many wrong passwords. Please try again {wait}.",
    }

    username = StringField("Username")
    password = PasswordField("Password")

    too_many: TooManyAttempts | None = None
    _user: Any = None

    def get_user(self) -> Any | None:
        """The user, once the form is valid."""
        return self._user

    async def validate(self, extra_validators: Any = None) -> bool:
        """Whether name and password are a user's."""
        if not await super().validate(extra_validators):
            return False
        self._user = await self.authenticate()
        return self._user is not None

    async def authenticate(self) -> Any | None:
        """The user of the typed credentials, or None and an error."""
        username, password = self.username.data or "", self.password.data or ""
        if not username:
            self.add_error("username_required", self.username)
        if not password:
            self.add_error("password_required", self.password)
        if not username or not password:
            return None
        try:
            user = await authenticate(self.otp, self._request, username, password)
        except TooManyAttempts as exc:
            self.too_many = exc
            self.add_error("too_many_attempts", wait=wait_of(exc))
            return None
        if user is None:
            self.add_error("invalid_login")
        return user


class OTPAuthenticationFormMixin:
    """The fields and checks of the second factor, for a form whose first factor is any.

    Such a form extends BaseForm and, once it knows the user, answers with `clean_otp(user)`.

    Attributes:
        is_repeated: nothing is wrong, this is the second of two clicks: the first one's answer
            verifies the session, and the view sends the user on.
        ways: the user's devices as the page offers them, the one that was used last first.
        way: the one that the page is about: the chosen one, else the first; None without any.
        sender: the one that the button for a code asks; None without any.
    """

    is_repeated = False
    ways: Sequence[Way] = ()
    way: Way | None = None
    sender: Way | None = None

    otp_error_messages: ClassVar[Mapping[str, str]] = {
        "token_required": "Please enter the code.",
        "challenge_exception": "The code could not be sent. Please try again later.",
        "not_interactive": "No code is sent for this. Please try another way.",
        "challenge_message": "{challenge}",
        "invalid_token": "That code is not right, or was used before. Please check it.",
        "n_failed_attempts": "You have to wait after {wrong_tokens}. Please try again {wait}.",
        "verification_not_allowed": "{error_message}",
    }

    otp_device = SelectField("Try another way", choices=[], validate_choice=False)
    otp_token = StringField("Code")
    otp_challenge = SubmitField("Send me a code")
    otp_way = StringField("Try another way")
    otp_trust_agent = BooleanField("Trust this browser")

    _user: Any = None

    def get_user(self) -> Any | None:
        """The user, once the form is valid, with the device as `otp_device`."""
        return self._user

    def messages(self: Any) -> Mapping[str, str]:
        """The message for each code."""
        form = type(self)
        return merged(form, "error_messages") | merged(form, "otp_error_messages")

    async def device_choices(self: Any, user: object) -> list[tuple[str, str]]:
        """The user's confirmed devices to choose from: persistent id and name."""
        found = await self.otp.enrolment.devices_for_user(user)
        devices = [device for device in found if device.missing_setting() is None]
        self.ways = ways_of(devices, user)
        return [(way.device_id, way.name) for way in self.ways]

    async def clean_otp(self: Any, user: Any) -> bool:
        """Verify the token, or give the challenge that was asked for.

        With a device chosen it alone is asked, else all of the user's are. Another user's device
        is as good as none.

        Args:
            user: the user whose first factor was accepted.

        Returns:
            Whether a device accepted the token: `get_user()` has it. If not, the errors and their
            codes say why, or `info` holds the challenge, and `otp_device` offers the devices.
        """
        chosen = self.otp_way.data or self.otp_device.data or None
        device = None
        if self.otp_challenge.data:
            chosen = await self._challenge(user, chosen)
        elif self.otp_way.data:
            pass  # Only the page for another device was asked for.
        elif not (self.otp_token.data or "").strip():
            self.token_is_missing()
        else:
            device = await self._verify(user, chosen)
        if device is not None:
            self._user = attach(user, device)
            want_trust(verdict_of(self._request), self.otp_trust_agent.data)
            return True
        if not self.is_repeated:
            await self._offer(user, chosen)
        return False

    @property
    def can_trust(self: Any) -> bool:
        """Whether the box "Trust this browser" can do anything."""
        return can_trust(verdict_of(self._request))

    def token_is_missing(self: Any) -> None:
        """Say that no token was typed."""
        self.add_error("token_required", self.otp_token)

    async def _offer(self: Any, user: object, chosen: str | None) -> None:
        days = self.otp.agents.model.longest(user) if self.can_trust else None
        if days is not None:
            self.otp_trust_agent.label.text += f" for {clock.lasting(days * 86400)}"
        choices = await self.device_choices(user)
        several = [("", "Any of my devices")] if len(choices) > 1 else []
        self.otp_device.choices = several + choices
        self.otp_device.data = chosen if chosen in dict(choices) else ""
        self.otp_token.data = ""
        # A host's own choices may be fewer, and have names of their own.
        known = {way.device_id: way for way in self.ways}
        ways = [replace(known.get(id_, Way(id_)), name=name) for id_, name in choices]
        chosen_way = next((way for way in ways if way.device_id == self.otp_device.data), None)
        self.ways, self.way = ways, chosen_way or (ways[0] if ways else None)
        asked = ways if chosen_way is None else [chosen_way]
        self.sender = next((way for way in asked if way.is_interactive), None)

    async def _verify(self: Any, user: Any, chosen: str | None) -> Any | None:
        token, client = self.otp_token.data, client_of(self.otp, self._request)
        attempt = await self.otp.verification.attempt(
            user,
            token,
            chosen,
            or_any=True,
            browser=self.browser,
            asking_browser=self.asking_browser,
            address=client.address,
            agent=client.agent,
        )
        refusal, self.is_repeated = attempt.refusal, attempt.is_repeated
        if self.is_repeated:
            return None
        if attempt.device is None and refusal is None:
            self.add_error("invalid_token", self.otp_token)
        elif refusal is not None and refusal.get("reason") == VerifyNotAllowed.N_FAILED_ATTEMPTS:
            count = refusal.get("failure_count")
            data = {
                **refusal,
                "wait": _wait(refusal.get("locked_until")),
                "wrong_tokens": "1 wrong code" if count == 1 else f"{count} wrong codes",
            }
            self.add_error("n_failed_attempts", self.otp_token, **data)
        elif refusal is not None:
            data = {"error_message": "This can't be used now.", **refusal}
            self.add_error("verification_not_allowed", self.otp_token, **data)
        return attempt.device

    async def _challenge(self: Any, user: Any, chosen: str | None) -> str | None:
        """Send a code by the chosen device, or else by the first that can; its id."""
        if chosen is None:
            await self._offer(user, None)
            chosen = self.sender and self.sender.device_id
        message = await self.challenge(user, chosen, self.otp_device) if chosen else ""
        if message:
            self.info = self.messages()["challenge_message"].format(challenge=message)
            self.error_codes.append("challenge_message")
        elif message is not None:
            self.add_error("not_interactive", self.otp_device)
        return chosen


class OTPTokenForm(OTPAuthenticationFormMixin, BaseForm):
    """A token alone, for a user who is authenticated already.

    Args:
        request: behind OTPMiddleware.
        user: the user.
    """

    def __init__(self, request: Request, *args: Any, user: Any, **kwargs: Any) -> None:
        self.user = user
        super().__init__(request, *args, **kwargs)

    @classmethod
    async def from_formdata(cls, request: Request, **kwargs: Any) -> Self:
        """The form of this request, with the user's devices to choose from."""
        form = await super().from_formdata(request, **kwargs)
        if not form.is_submitted():
            await form._offer(form.user, None)
        return form

    async def validate(self, extra_validators: Any = None) -> bool:
        """Whether one of the user's devices accepts the token."""
        if await super().validate(extra_validators):
            return await self.clean_otp(self.user)
        await self._offer(self.user, None)
        return False


class OTPAuthenticationForm(OTPAuthenticationFormMixin, PasswordForm):
    """Name, password and token, in one go or one after the other.

    Once the password was accepted it need not be typed again: for five minutes a ticket in the
    session stands for it. The ticket is bound to the username, to the password's hash and to the
    last use of the user's devices, and is a row in the database: a success and a log-out kill it,
    copies too; failures do not extend it.

    Attributes:
        password_accepted: the first factor was accepted, only the second is missing.
        takes_trust: a browser that its user trusts stands for a token, where the site accepts it.
    """

    password_accepted = False
    takes_trust = True
    _former_token: str | None = None
    _redeemed_token: str | None = None

    async def validate(self, extra_validators: Any = None) -> bool:
        """Whether name and password are a user's and one of their devices accepts the token."""
        if not await super().validate(extra_validators):
            # Soon stale, and the user's next look is for the password.
            self.otp_token.data = ""
            return False
        user, self._user = self._user, None
        if await self.otp.requirement.is_lacking(user):
            # Nothing could be asked of them, and their session leads to the enrolment.
            self._user = user
        elif await self._is_trusted(user):
            self._user = user
        if self._user is not None or await self.clean_otp(user):
            self._request.session.pop(ticket.TICKET_KEY, None)
            held = await self.otp.tickets.discard(self._redeemed_token or self._former_token)
            if self._redeemed_token is None or held:
                return True
            # A copy of it was faster, or it was ended while the token was looked at.
            self._user = None
            self.add_error("password_required", self.password)
            return False
        if self.is_repeated:
            return False
        self.password_accepted = True
        if self.password.data and self.otp.users.can_be_loaded:
            name, former = self.username.data or "", self._former_token
            if not await ticket.issue(self.otp, self._request, name, user, former):
                self.password_accepted = False
                self.add_error("invalid_login")
        return False

    async def _is_trusted(self, user: Any) -> bool:
        """Whether who has typed their password, and no token, trusts this browser."""
        asked = self.otp_token, self.otp_challenge, self.otp_way
        if not self.password.data or any(field.data for field in asked):
            return False
        return self.takes_trust and await stands_for_a_token(self._request, user)

    def token_is_missing(self) -> None:
        """Say so, but not to who has typed the password alone, on a page that asked for no more."""
        if self.password.data and not self.otp_token.raw_data:
            self.error_codes.append("token_required")
        else:
            super().token_is_missing()

    async def authenticate(self) -> Any | None:
        """The user of the typed credentials, or else of the ticket."""
        otp, request = self.otp, self._request
        if not self.password.data:
            redeemed = await ticket.redeem(otp, request, self.username.data or "")
            if redeemed is not None:
                self._redeemed_token = ticket.token_of(otp, request)
                user, self.username.data = redeemed
                return user
        self._former_token = ticket.token_of(otp, request)
        request.session.pop(ticket.TICKET_KEY, None)
        user = await super().authenticate()
        if user is None:
            await otp.tickets.discard(self._former_token)
        return user


def _wait(until: datetime | None) -> str:
    return "once the device has been reset" if until is None else clock.in_words(until)
