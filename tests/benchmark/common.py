"""What the sites and the parent process agree on: keys, the secret, the pool, the environment."""

from __future__ import annotations

import base64
import gc
import json
import os
from typing import Any

import itsdangerous

DATABASE_VARIABLE = "OTP_BENCHMARK_DATABASE_URL"
"""Where a site finds its own database, `postgresql://...`."""
SECRET_KEY = "a secret key of the benchmark, over 32 characters"
PASSWORD = "correct horse battery staple"
SECRET = b"12345678901234567890"
"""What every device shares with its owner's app."""
POOL = 20
"""Connections of each site, and of each of its workers."""
STEP = 30
"""Seconds that a token stands for."""


def loaded() -> None:
    """Called by each site once it is loaded: the collector leaves alone what stays, as the
    documentation recommends for a site in production."""
    gc.collect()
    gc.freeze()


def database_url() -> str:
    """This site's database."""
    return os.environ[DATABASE_VARIABLE]


def starlette_cookie(session: dict[str, Any]) -> str:
    """A Cookie header with what Starlette's SessionMiddleware would have put there."""
    data = base64.b64encode(json.dumps(session).encode())
    return "session=" + itsdangerous.TimestampSigner(SECRET_KEY).sign(data).decode()
