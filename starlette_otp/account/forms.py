"""The forms of the account pages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from sqlalchemy import inspect
from wtforms import BooleanField, EmailField, PasswordField, StringField, SubmitField

from starlette_otp import clock
from starlette_otp.devices.owner import is_clean_text
from starlette_otp.devices.policies import VerifyNotAllowed
from starlette_otp.devices.words import plain_name
from starlette_otp.exceptions import TooManyAttempts
from starlette_otp.service.attempts import Attempt
from starlette_otp.web.base_form import BaseForm
from starlette_otp.web.password import authenticate, wait_of

MAX_NAME = 64


class ButtonForm(BaseForm):
    """Nothing but the CSRF token, for a page with a button."""


class CodesForm(BaseForm):
    """The buttons of the recovery codes' pages."""

    new = SubmitField("Make new codes")
    sure = SubmitField("Yes, replace my codes")
    saved = SubmitField("I saved them")
    device = StringField()
    lost = BooleanField("My old codes may be in wrong hands: trust none of my browsers any more")


class NameForm(BaseForm):
    """A device's name."""

    error_messages: ClassVar[Mapping[str, str]] = {"invalid_name": "{reason}"}

    name = StringField("Name")


class AddForm(BaseForm):
    """What a new device of a kind needs to know; `add_form` makes one for each kind."""

    error_messages: ClassVar[Mapping[str, str]] = {
        "required": "Please fill this in.",
        "invalid": "{reason}",
    }

    asked: ClassVar[Mapping[str, int | None]] = {}
    """The fields that the kind asks for, and how long their columns are."""

    async def validate(self, extra_validators: Any = None) -> bool:
        """Whether all is there and fits its column."""
        if not await super().validate(extra_validators):
            return False
        for name, longest in self.asked.items():
            field, text = self[name], (self[name].data or "").strip()
            field.data = text
            if not text:
                self.add_error("required", field)
            elif not is_clean_text(text) or (longest is not None and len(text) > longest):
                self.add_error("invalid", field, reason="This is too long, or not a plain text.")
        return not self.error_codes

    @property
    def values(self) -> dict[str, str]:
        """What was asked for."""
        return {name: self[name].data for name in self.asked}


def add_form(kind: Any) -> type[AddForm]:
    """The form for a kind of device, with its `enrolment_fields`."""
    columns = inspect(kind).columns
    asked = {name: getattr(columns[name].type, "length", None) for name in kind.enrolment_fields}
    fields: dict[str, Any] = {
        name: EmailField("Email address")
        if name == "email"
        else StringField(name.replace("_", " ").capitalize())
        for name in asked
    }
    return type(f"Add{kind.__name__}Form", (AddForm,), {**fields, "asked": asked})


class ConfirmForm(BaseForm):
    """A new device's first token, and its name.

    Attributes:
        was_sent: a challenge was given just now.
    """

    was_sent = False

    error_messages: ClassVar[Mapping[str, str]] = {
        "token_required": "Please enter the code.",
        "invalid_token": "That code is not right. Please enter the one that is shown now.",
        "n_failed_attempts": "There were too many wrong codes. Please try again {wait}.",
        "verification_not_allowed": "{error_message}",
        "challenge_exception": "The code could not be sent. Please try again later.",
        "invalid_name": "A name has at most {longest} characters, all of them visible.",
    }

    otp_token = StringField("Code")
    name = StringField("Name (optional)")
    otp_challenge = SubmitField("Send me a code")

    async def validate(self, extra_validators: Any = None) -> bool:
        """Whether there is a token to try, or a challenge was asked for."""
        if not await super().validate(extra_validators):
            return False
        name = plain_name(self.name.data or "")
        if self.otp_challenge.data:
            return True
        if not (self.otp_token.data or "").strip():
            self.add_error("token_required", self.otp_token)
        if name is None or len(name) > MAX_NAME:
            self.add_error("invalid_name", self.name, longest=MAX_NAME)
        else:
            self.name.data = name
        return not self.error_codes

    def refuse(self, attempt: Attempt) -> None:
        """Add the error that says why a token was not accepted."""
        refusal = attempt.refusal
        if refusal is None:
            self.add_error("invalid_token", self.otp_token)
        elif refusal.get("reason") == VerifyNotAllowed.N_FAILED_ATTEMPTS:
            until = refusal.get("locked_until")
            wait = "with a new one" if until is None else clock.in_words(until)
            self.add_error("n_failed_attempts", self.otp_token, wait=wait)
        else:
            data = {"error_message": "This device can't be used now.", **refusal}
            self.add_error("verification_not_allowed", self.otp_token, **data)
        self.otp_token.data = ""


class CurrentPasswordForm(BaseForm):
    """The password that the user has; it is never written back into the page."""

    error_messages: ClassVar[Mapping[str, str]] = {
        "current_password_required": "Please enter your password.",
        "wrong_password": "That is not your password.",
        "too_many_attempts": "There were too many wrong passwords. Please try again {wait}.",
    }

    current_password = PasswordField("Your password")

    async def check_current(self, user: Any) -> bool:
        """Whether it is the user's; if not, the errors say why. Wrong ones count as at a log-in."""
        password, field = self.current_password.data or "", self.current_password
        if not password:
            self.add_error("current_password_required", field)
            return False
        try:
            found = await authenticate(self.otp, self._request, user.username, password)
        except TooManyAttempts as exc:
            self.add_error("too_many_attempts", wait=wait_of(exc))
            return False
        key = self.otp.device_model.user_key
        if found is None or key(found) != key(user):
            self.add_error("wrong_password", field)
            return False
        return True


class NewPasswordForm(CurrentPasswordForm):
    """A new password, and where no device stands for the user the one of now."""

    error_messages: ClassVar[Mapping[str, str]] = {
        "password_required": "Please enter a new password.",
        "invalid_password": "{reason}",
    }

    current_password = PasswordField("Current password")
    password = PasswordField("New password")
