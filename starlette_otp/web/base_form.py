"""BaseForm: what all forms share, CSRF that is always on and errors with codes."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from typing import Any, ClassVar, Self

from itsdangerous import BadData, URLSafeTimedSerializer
from starlette.requests import Request
from starlette_wtf import StarletteForm
from starlette_wtf.util import generate_csrf, validate_csrf
from wtforms import Form
from wtforms.csrf.core import CSRF

from starlette_otp.exceptions import DatabaseUnavailable, DeliveryFailed, described
from starlette_otp.web.body import submitted
from starlette_otp.web.origin import is_cross_site
from starlette_otp.web.site import Site
from starlette_otp.web.verdict import verdict_of

logger = logging.getLogger("starlette_otp")

CSRF_KEY = "otp_csrf"
"""Where the session holds what the CSRF tokens sign."""
_CSRF_MAX_AGE = 3600


class _SessionCSRF(CSRF):  # type: ignore[misc]  # WTForms is untyped
    """starlette-wtf's tokens under OTP's own key, whatever a host's middleware says."""

    def setup_form(self, form: Any) -> Any:
        self.request = form.meta.csrf_context
        return super().setup_form(form)

    def generate_csrf_token(self, csrf_token_field: Any) -> str:
        token: str = generate_csrf(self.request, self._keys(), CSRF_KEY)
        return token

    def validate_csrf_token(self, form: Any, field: Any) -> None:
        validate_csrf(self.request, field.data, self._keys(), CSRF_KEY, _CSRF_MAX_AGE)

    def _keys(self) -> list[str]:
        return verdict_of(self.request).otp.keyring.csrf


class BaseForm(StarletteForm):  # type: ignore[misc]  # starlette-wtf is untyped
    """A form with CSRF always on, and errors that have codes.

    Attributes:
        error_codes: the codes of all errors, in their order.
        info: what the user should know that is no error: the message of a challenge.
    """

    class Meta:
        csrf = True
        csrf_class = _SessionCSRF
        csrf_field_name = "csrf_token"

    error_messages: ClassVar[Mapping[str, str]] = {
        "csrf_failed": "This page could not be checked, or was open for too long. "
        "Please try again.",
    }

    def __init__(self, request: Request, *args: Any, **kwargs: Any) -> None:
        # Not StarletteForm's own: that lets a host's CSRF middleware switch ours off.
        self._request = request
        self.error_codes: list[str] = []
        self.info: str | None = None
        Form.__init__(self, *args, meta={"csrf_context": request}, **kwargs)

    @classmethod
    async def from_formdata(cls, request: Request, **kwargs: Any) -> Self:
        """The form of this request, filled with what was submitted.

        Raises:
            HTTPException: 400 for a body that does not parse, a JSON body that is no object of
                texts, or a file for a field.
        """
        if "formdata" not in kwargs:
            kwargs["formdata"] = await submitted(request)
        return cls(request, **kwargs)

    async def validate(self, extra_validators: Any = None) -> bool:
        """Whether the fields are valid and the request is not forged."""
        # Before the token: a neighbour that can set our cookie has one that goes with it.
        if is_cross_site(self._request, self.otp.allowed_origins):
            self.add_error("csrf_failed")
            return False
        if await super().validate(extra_validators):
            return True
        if self.csrf_token.errors:
            self.csrf_token.errors = []
            self.add_error("csrf_failed")
        return False

    def messages(self) -> Mapping[str, str]:
        """The message for each code."""
        return merged(type(self), "error_messages")

    def add_error(self, code: str, field: Any = None, **data: Any) -> None:
        """Add the error of that code, to a field or to the form as a whole."""
        message = self.messages()[code].format(**data)
        if field is None:
            self.form_errors.append(message)
        else:
            field.errors = [*field.errors, message]
        self.error_codes.append(code)

    async def challenge(
        self, user: object, device_id: str, field: Any = None, **context: Any
    ) -> str | None:
        """Send a code by one of the user's devices.

        Args:
            user: whose device it has to be.
            device_id: its persistent id.
            field: which one the error is about, if there is one.
            context: what else `Challenges.generate` takes.

        Returns:
            What the user is told; nothing where the device gives none; None if that failed, with
            the error "challenge_exception".
        """
        generate = self.otp.challenges.generate
        try:
            return await generate(user, device_id, self.asking_browser, **context) or ""
        except DatabaseUnavailable:
            raise
        except DeliveryFailed:
            pass
        except Exception as exc:
            logger.error("A challenge could not be made: %s.", described(exc))
        self.add_error("challenge_exception", field)
        return None

    @property
    def browser(self) -> str | None:
        """What the browser session of the form's page is known by, also after a log-in."""
        serializer = URLSafeTimedSerializer(self.otp.keyring.csrf, salt="wtf-csrf-token")
        try:
            return str(serializer.loads(self.csrf_token.data or "", max_age=_CSRF_MAX_AGE))
        except BadData:
            return None

    @property
    def asking_browser(self) -> str | None:
        """What tells this browser from others."""
        return asking_browser(self._request)

    @property
    def otp(self) -> Site:
        """The OTP of this request."""
        return verdict_of(self._request).otp


def asking_browser(request: Request) -> str | None:
    """What tells a browser from others: a digest of the secret of its CSRF tokens.

    It is in the session before the log-in already, and new after it.
    """
    secret = request.session.get(CSRF_KEY)
    return hashlib.sha256(secret.encode()).hexdigest() if isinstance(secret, str) else None


def merged(form_class: type[Any], attribute: str) -> dict[str, str]:
    """A table of messages over those of the bases: an override names only what it changes."""
    tables = [vars(cls).get(attribute, {}) for cls in reversed(form_class.__mro__)]
    return {code: message for table in tables for code, message in table.items()}
