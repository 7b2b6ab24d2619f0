"""What an authenticator app reads: a QR code, or the key to type."""

from __future__ import annotations

import base64
import logging
from importlib.util import find_spec

from starlette_otp.exceptions import install_hint, is_missing

logger = logging.getLogger("starlette_otp")

_LOOK = {
    "border": 4,
    "dark": "#000",
    "light": "#fff",
    "omitsize": True,
    "svgclass": "otp-qr",
    "lineclass": None,
    "title": "QR code for your authenticator app",
}
_GROUP = 4


def warn_of_missing() -> None:
    """Say in the log what the account pages do without, and which extra brings it."""
    lacks = {"segno": "show a key without its QR code", "ua_parser": "don't name browsers"}
    missing = [words for name, words in lacks.items() if find_spec(name) is None]
    if missing:
        logger.warning("The account pages %s: %s", " and ".join(missing), install_hint("account"))


def svg(url: str) -> str | None:
    """The QR code as an SVG element, dark on light in every colour scheme; None without segno."""
    try:
        import segno
    except ImportError as exc:
        if not is_missing(exc, "segno"):
            raise
        return None
    code: str = segno.make(url, error="m").svg_inline(**_LOOK)
    return code


def grouped(secret: bytes) -> str:
    """The secret in base 32, in groups that people can type."""
    key = base64.b32encode(secret).decode().rstrip("=")
    return " ".join(key[at : at + _GROUP] for at in range(0, len(key), _GROUP))
