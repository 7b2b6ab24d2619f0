"""The forms: name, password and token in one go; or a token alone."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from datetime import datetime
from typing import Any, ClassVar, Self

from starlette.requests import Request
from wtforms import PasswordField, SelectField, StringField, SubmitField

from starlette_otp import clock
from starlette_otp.devices.policies import VerifyNotAllowed
from starlette_otp.exceptions import (
    DatabaseUnavailable,
    DeliveryFailed,
    TooManyAttempts,
    described,
)
from starlette_otp.web import ticket
from starlette_otp.web.base_form import BaseForm, merged
from starlette_otp.web.journal import client_of
from starlette_otp.web.password import authenticate
from starlette_otp.web.user import attach

logger = logging.getLogger("starlette_otp")


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
            wait = "later" if exc.seconds is None else f"in {clock.lasting(exc.seconds)}"
            self.add_error("too_many_attempts", wait=wait)
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
    """

    is_repeated = False

    otp_error_messages: ClassVar[Mapping[str, str]] = {
        "token_required": "Please enter your token.",
        "challenge_exception": "The challenge could not be sent. Please try again later.",
        "not_interactive": "Please choose a device that gives a challenge.",
        "challenge_message": "{challenge}",
        "invalid_token": "That token is not right, or was used before. Please check it.",
        "n_failed_attempts": "Verification is paused after {wrong_tokens}. "
        "Please try again {wait}.",
        "verification_not_allowed": "{error_message}",
    }

    otp_device = SelectField("Device", choices=[], validate_choice=False)
    otp_token = StringField("Token")
    otp_challenge = SubmitField("Get challenge")
    otp_letters = SubmitField("Keyboard with letters")

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
        names = Counter(_label(device) for device in devices)
        return [
            (d.persistent_id, _label(d) + (f" ({d.id})" if names[_label(d)] > 1 else ""))
            for d in devices
        ]

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
        chosen = self.otp_device.data or None
        device = None
        if self.otp_challenge.data:
            await self._challenge(user, chosen)
        elif self.otp_letters.data:
            pass  # Only a page with another keyboard was asked for.
        elif not (self.otp_token.data or "").strip():
            self.add_error("token_required", self.otp_token)
        else:
            device = await self._verify(user, chosen)
        if device is not None:
            self._user = attach(user, device)
            return True
        if not self.is_repeated:
            await self._offer(user, chosen)
        return False

    async def _offer(self: Any, user: object, chosen: str | None) -> None:
        choices = await self.device_choices(user)
        several = [("", "Any of my devices")] if len(choices) > 1 else []
        self.otp_device.choices = several + choices
        self.otp_device.data = chosen if chosen in dict(choices) else ""
        self.otp_token.data = ""

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
                "wrong_tokens": "1 wrong token" if count == 1 else f"{count} wrong tokens",
            }
            self.add_error("n_failed_attempts", self.otp_token, **data)
        elif refusal is not None:
            data = {"error_message": "This device can't verify a token now.", **refusal}
            self.add_error("verification_not_allowed", self.otp_token, **data)
        return attempt.device

    async def _challenge(self: Any, user: Any, chosen: str | None) -> None:
        try:
            message = chosen and await self.otp.challenges.generate(
                user, chosen, self.asking_browser
            )
        except DeliveryFailed:
            self.add_error("challenge_exception", self.otp_device)
        except DatabaseUnavailable:
            raise
        except Exception as exc:
            logger.error("A challenge could not be made: %s.", described(exc))
            self.add_error("challenge_exception", self.otp_device)
        else:
            if not message:
                self.add_error("not_interactive", self.otp_device)
                return
            self.info = self.messages()["challenge_message"].format(challenge=message)
            self.error_codes.append("challenge_message")


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
    """Name, password and token in one go.

    Once the password was accepted it need not be typed again: for five minutes a ticket in the
    session stands for it. The ticket is bound to the username, to the password's hash and to the
    last use of the user's devices, and is a row in the database: a success and a log-out kill it,
    copies too; failures do not extend it.

    Attributes:
        password_accepted: the first factor was accepted, only the second is missing.
    """

    password_accepted = False
    _former_token: str | None = None
    _redeemed_token: str | None = None

    async def validate(self, extra_validators: Any = None) -> bool:
        """Whether name and password are a user's and one of their devices accepts the token."""
        if not await super().validate(extra_validators):
            # Soon stale, and the user's next look is for the password.
            self.otp_token.data = ""
            return False
        user, self._user = self._user, None
        if await self.clean_otp(user):
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
            name = self.username.data or ""
            await ticket.issue(self.otp, self._request, name, user, self._former_token)
        return False

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


def _label(device: Any) -> str:
    return device.name or f"{device.kind} device"


def _wait(until: datetime | None) -> str:
    return "once the device has been reset" if until is None else clock.in_words(until)
