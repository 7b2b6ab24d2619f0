"""What HOTP and TOTP devices share: digits, algorithm, and the URL a QR code carries."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any, ClassVar
from urllib.parse import quote, urlencode

from sqlalchemy import Integer, String
from sqlalchemy.orm import Mapped, mapped_column, validates

from starlette_otp import oath
from starlette_otp.devices.base import DeviceMixin

OfDevice = str | Callable[[Any], str | None] | None
"""A setting: a text, a function of the device that gives one, or nothing."""


class OTPAuthMixin(DeviceMixin):
    """A device whose tokens a prover makes from a secret that both sides know."""

    code_has_letters = False

    issuer: ClassVar[OfDevice] = None
    """Whose key it is, as the prover's app shows it; unless set, `OTP(site_name=)`."""

    digits: Mapped[int | None] = mapped_column(Integer, use_existing_column=True)
    tolerance: Mapped[int | None] = mapped_column(Integer, use_existing_column=True)
    algorithm: Mapped[str | None] = mapped_column(String(8), use_existing_column=True)

    @validates("digits", "tolerance", "algorithm")
    def _validate_oath(self, name: str, value: Any) -> Any:
        if name == "digits" and value not in range(6, 11):
            raise ValueError("digits is 6 to 10 (RFC 4226 section 5.3: at least 6).")
        if name == "tolerance" and value not in range(0, 101):
            raise ValueError("tolerance is 0 to 100.")
        if name == "algorithm" and value not in oath.ALGORITHMS:
            raise ValueError(f"algorithm is one of {', '.join(oath.ALGORITHMS)}.")
        return value

    def accepts(self, token: str) -> bool:
        """Whether `token` is this device's number of ASCII digits, spaces and dashes aside."""
        return self.canonical(token) is not None

    def canonical(self, token: str) -> str | None:
        """The token's digits alone, or None if it can't be one of this device's."""
        return oath.canonical_digits(token, self.digits or 6)

    def setting(self, name: str) -> str:
        """A class attribute that may be a function of the device, as text fit for a URL."""
        value = getattr(type(self), name)
        return _printable((value(self) if callable(value) else value) or "")

    @property
    def issuer_name(self) -> str:
        """Whose key it is, without the colon that ends it in a URL."""
        return (self.setting("issuer") or _printable(self.__site_name__)).replace(":", "")

    def otpauth_url(self, type_: str, account_name: str, **parameters: str | int) -> str:
        """The otpauth:// URL for this device's secret, with a type's own parameters.

        The type is "totp" or "hotp", whatever the host calls its kind of device.

        Issuer and account name are quoted each, with a literal colon between them: readers take
        `%3A` for a part of the name.
        """
        issuer = self.issuer_name
        name = _printable(account_name).replace(":", "")
        query: dict[str, str | int] = {
            "secret": base64.b32encode(self.secret).decode().rstrip("="),
            "algorithm": self.algorithm or "SHA1",
            "digits": self.digits or 6,
            **parameters,
        }
        if issuer:
            query["issuer"] = issuer
        label = (
            f"{quote(issuer, safe='')}:{quote(name, safe='')}" if issuer else quote(name, safe="")
        )
        return f"otpauth://{type_}/{label}?{urlencode(query, quote_via=quote)}"


def _printable(text: str) -> str:
    return "".join(char for char in text if char.isprintable())
