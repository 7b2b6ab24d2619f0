"""HOTP and TOTP as pure functions."""

import pytest

from starlette_otp import oath

SECRET = b"12345678901234567890"
RFC_4226_TOKENS = [
    "755224",
    "287082",
    "359152",
    "969429",
    "338314",
    "254676",
    "287922",
    "162583",
    "399871",
    "520489",
]
LONGER = {"SHA1": SECRET, "SHA256": (SECRET * 2)[:32], "SHA512": (SECRET * 4)[:64]}
"""The secrets of RFC 6238 appendix B are as long as the digest of their algorithm."""
RFC_6238_TIMES = (59, 1111111109, 1111111111, 1234567890, 2000000000, 20000000000)
RFC_6238_TOKENS = {
    "SHA1": ["94287082", "07081804", "14050471", "89005924", "69279037", "65353130"],
    "SHA256": ["46119246", "68084774", "67062674", "91819424", "90698825", "77737706"],
    "SHA512": ["90693936", "25091201", "99943326", "93441116", "38618901", "47863826"],
}


@pytest.mark.parametrize(("counter", "token"), list(enumerate(RFC_4226_TOKENS)))
def test_hotp_gives_the_tokens_of_rfc_4226(counter: int, token: str) -> None:
    """RFC 4226 appendix D: the first ten tokens."""
    assert oath.hotp(SECRET, counter) == token


@pytest.mark.parametrize("algorithm", RFC_6238_TOKENS)
def test_hotp_at_the_time_step_gives_the_tokens_of_rfc_6238(algorithm: str) -> None:
    """RFC 6238 appendix B: eight digits under all three algorithms."""
    steps = map(oath.time_step, RFC_6238_TIMES)
    tokens = [oath.hotp(LONGER[algorithm], step, 8, algorithm) for step in steps]
    assert tokens == RFC_6238_TOKENS[algorithm]


@pytest.mark.parametrize(
    ("now", "step", "t0", "expected"),
    [
        (0, 30, 0, 0),
        (29.999, 30, 0, 0),
        (30, 30, 0, 1),
        (59, 60, 0, 0),
        (100, 30, 100, 0),
        (99, 30, 100, -1),
    ],
)
def test_time_steps_count_from_t0(now: float, step: int, t0: int, expected: int) -> None:
    """RFC 6238 section 4.2: T = floor((now - T0) / X)."""
    assert oath.time_step(now, step, t0) == expected


def test_match_finds_the_first_counter_of_the_window() -> None:
    """The window is scanned in its own order, and says which counter's token it was."""
    assert oath.match(SECRET, "969429", range(0, 6)) == 3
    assert oath.match(SECRET, "969429", range(4, 10)) is None
    assert oath.match(SECRET, "755224", range(-3, 1)) == 0, "negative counters have no token"


@pytest.mark.parametrize("digits", [6, 7, 8, 9, 10])
def test_tokens_have_all_their_digits(digits: int) -> None:
    """Leading zeros are part of a token, whatever its length."""
    tokens = [oath.hotp(SECRET, counter, digits) for counter in range(40)]
    assert {len(token) for token in tokens} == {digits}
    assert any(token.startswith("0") for token in tokens)


CANONICAL = {
    "123456": "123456",
    "123 456": "123456",
    "123-456": "123456",
    " 1 2 3-4 5 6 ": "123456",
    "000000": "000000",
    "1_23456": None,
    "123_456": None,
    "+123456": None,
    "12345.": None,
    "1e5000": None,
    "１２３４５６": None,  # noqa: RUF001 (full-width digits are the point)
    "²³¹²³¹": None,
    "١٢٣٤٥٦": None,
    "123\u00a0456": "123456",
    "123456\r\n": "123456",
    "123\t456": "123456",
    "123\u2009456\u202f": "123456",
    "123\u2013456": "123456",
    "\u200e123456\u200b": "123456",
    "\ufeff123\u2212456": "123456",
    "123\u2011456\u2014": "123456",
    "123.456": None,
    "12345\0": None,
    "123456\0": None,
    "": None,
    "      ": None,
    "12345": None,
    "1234567": None,
    "abcdef": None,
    "1" * 10_000: None,
    "123456" + " " * 10_000: None,
    "\ud800" * 6: None,
}


@pytest.mark.parametrize(("typed", "digits"), list(CANONICAL.items()), ids=range(len(CANONICAL)))
def test_only_ascii_digits_of_the_right_number_are_a_token(typed: str, digits: str | None) -> None:
    """Spaces, dashes and marks that can't be seen go; what is then not exactly six ASCII digits is
    a wrong token."""
    assert oath.canonical_digits(typed, 6) == digits


@pytest.mark.parametrize(("drift", "kept"), [(0, 0), (10, 10), (11, 10), (-10, -10), (-11, -10)])
def test_drift_is_limited(drift: int, kept: int) -> None:
    """RFC 6238 section 6: the verifier limits the drift it records."""
    assert oath.clamp_drift(drift) == kept
