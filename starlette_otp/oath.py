"""HOTP and TOTP (RFC 4226, RFC 6238) on top of pyotp: pure functions of their arguments."""

from __future__ import annotations

import base64
import hashlib
import hmac
import unicodedata
from collections.abc import Callable, Iterable
from typing import Any, Final

import pyotp

ALGORITHMS: Final[dict[str, Callable[..., Any]]] = {
    "SHA1": hashlib.sha1,
    "SHA256": hashlib.sha256,
    "SHA512": hashlib.sha512,
}
MIN_SECRET_BYTES: Final = 16
"""RFC 4226 section 4, R6: a secret has at least 128 bits."""
SECRET_BYTES: Final = 20
"""RFC 4226 section 4, R6: 160 bits are recommended."""
MAX_DRIFT: Final = 10
"""RFC 6238 section 6: the verifier limits how far a prover's clock may drift, in steps."""
# Longer than any numeric token with separators; what is longer is not worth looking at.
_MAX_TYPED: Final = 64
# Dashes that Unicode does not count among them: the minus, the hyphen bullet, a modifier.
_MORE_DASHES: Final = "\u2212\u2043\u02d7"


def without_separators(token: str) -> str:
    """`token` without white space, dashes and marks that can't be seen, of whatever script.

    What was copied from a document or a mail has no-break and thin spaces, en dashes, line ends,
    marks of direction.
    """
    if token.isascii() and token.isalnum():
        return token  # as most are
    return "".join(c for c in token if not _is_separator(c))


def _is_separator(char: str) -> bool:
    return char.isspace() or unicodedata.category(char) in ("Pd", "Cf") or char in _MORE_DASHES


def canonical_digits(token: str, digits: int) -> str | None:
    """What the user typed, without separators, or None if it is not `digits` ASCII digits.

    Full-width digits, signs and underscores are wrong tokens, although `int()` takes them.
    """
    if len(token) > _MAX_TYPED:
        return None
    token = without_separators(token)
    return token if len(token) == digits and token.isascii() and token.isdigit() else None


def secret_from_base32(text: str) -> bytes:
    """The secret that an app or a hardware token's maker writes in base 32 (RFC 4648 section 6).

    Args:
        text: in capitals or not, with or without spaces, dashes and padding.

    Raises:
        ValueError: it is no base 32.
    """
    plain = without_separators(text).rstrip("=")
    try:
        return base64.b32decode(plain + "=" * (-len(plain) % 8), casefold=True)
    except ValueError:
        raise ValueError("This is no base 32: letters and the digits 2 to 7.") from None


def hotp(secret: bytes, counter: int, digits: int = 6, algorithm: str = "SHA1") -> str:
    """The token for a counter (RFC 4226 section 5.3)."""
    return _HOTP(secret, digits, algorithm).at(counter)


class _HOTP(pyotp.HOTP):
    """pyotp's, over the bytes themselves: it takes base 32 and decodes it for every token."""

    def __init__(self, secret: bytes, digits: int, algorithm: str) -> None:
        self._bytes = secret
        super().__init__("", digits=digits, digest=ALGORITHMS[algorithm])

    def byte_secret(self) -> bytes:
        return self._bytes


def equal(token: str, other_token: str) -> bool:
    """Whether two canonical tokens are the same, compared in constant time."""
    return hmac.compare_digest(token, other_token)


def time_step(unix_time: float, step: int = 30, t0: int = 0) -> int:
    """The number of the time step (RFC 6238 section 4.2); `step` and `t0` in seconds."""
    return int((unix_time - t0) // step)


def match(
    secret: bytes, token: str, counters: Iterable[int], digits: int = 6, algorithm: str = "SHA1"
) -> int | None:
    """The first of `counters` whose token is `token` (canonical digits), compared in constant time.

    The same walk serves HOTP's look-ahead window (RFC 4226 section 7.2) and TOTP's window of
    steps (RFC 6238 section 5.2). Negative counters have no token and are passed over.
    """
    tokens = _HOTP(secret, digits, algorithm)
    for counter in counters:
        if counter >= 0 and equal(tokens.at(counter), token):
            return counter
    return None


def clamp_drift(drift: int) -> int:
    """`drift` in steps, kept within what RFC 6238 section 6 lets a verifier record."""
    return max(-MAX_DRIFT, min(MAX_DRIFT, drift))
