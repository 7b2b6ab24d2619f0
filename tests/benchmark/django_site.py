"""The site on django-otp, as its documentation puts one together; for ASGI and for WSGI.

Sync views, since django-otp's `verify_token` is sync, and async ones were no faster under ASGI; no
middleware but the three it needs.
"""

from __future__ import annotations

import json
from typing import Any

import django
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.core.wsgi import get_wsgi_application
from sqlalchemy import make_url

from tests.benchmark.common import POOL, SECRET_KEY, database_url, loaded


def database() -> dict[str, Any]:
    """Django's settings of a `postgresql://` URL, with a pool as Django recommends it for ASGI."""
    url = make_url(database_url())
    host = url.host or url.query.get("host", "")
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": url.database,
        "USER": url.username or "",
        "PASSWORD": url.password or "",
        "HOST": host,
        "PORT": str(url.port or url.query.get("port", "")),
        "OPTIONS": {"pool": {"min_size": POOL, "max_size": POOL}},
    }


settings.configure(
    SECRET_KEY=SECRET_KEY,
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF=__name__,
    USE_TZ=True,
    DATABASES={"default": database()},
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    INSTALLED_APPS=[
        "django.contrib.auth",
        "django.contrib.contenttypes",
        "django.contrib.sessions",
        "django_otp",
        "django_otp.plugins.otp_totp",
    ],
    MIDDLEWARE=[
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.contrib.auth.middleware.AuthenticationMiddleware",
        "django_otp.middleware.OTPMiddleware",
    ],
    # Django's default, PBKDF2, takes several times as long.
    PASSWORD_HASHERS=["django.contrib.auth.hashers.Argon2PasswordHasher"],
    OTP_TOTP_THROTTLE_FACTOR=0,
)
django.setup()

# They want the settings.
from django.contrib import auth  # noqa: E402
from django.http import HttpRequest, HttpResponse, JsonResponse  # noqa: E402
from django.urls import path  # noqa: E402
from django.views.decorators.http import require_POST  # noqa: E402
from django_otp import login, match_token, verify_token  # noqa: E402
from django_otp.decorators import otp_required  # noqa: E402


def verdict(accepted: bool) -> HttpResponse:
    return JsonResponse({"verified": accepted}, status=200 if accepted else 403)


def public(request: HttpRequest) -> HttpResponse:
    return HttpResponse("hello everybody", content_type="text/plain")


@otp_required
def vault(request: HttpRequest) -> HttpResponse:
    return HttpResponse(f"hello {request.user.username}", content_type="text/plain")


@require_POST
def verify(request: HttpRequest) -> HttpResponse:
    """A token alone: the session stays as it is."""
    if not request.user.is_authenticated:
        return JsonResponse({}, status=401)
    body = json.loads(request.body)
    return verdict(verify_token(request.user, body["device"], body["token"]) is not None)


@require_POST
def step_up(request: HttpRequest) -> HttpResponse:
    """A token, and the session under a new key, which django-otp leaves to the site."""
    if not request.user.is_authenticated:
        return JsonResponse({}, status=401)
    body = json.loads(request.body)
    device = verify_token(request.user, body["device"], body["token"])
    if device is not None:
        request.session.cycle_key()
        login(request, device)
    return verdict(device is not None)


@require_POST
def sign_in(request: HttpRequest) -> HttpResponse:
    """Name, password and token at once."""
    body = json.loads(request.body)
    user = auth.authenticate(request, username=body["username"], password=body["password"])
    device = user and match_token(user, body["token"])
    if device is None:
        return verdict(False)
    user.otp_device = device
    auth.login(request, user)
    return verdict(True)


urlpatterns = [
    path("public", public),
    path("vault", vault),
    path("verify", verify),
    path("stepup", step_up),
    path("signin", sign_in),
]
asgi = get_asgi_application()
wsgi = get_wsgi_application()
loaded()
