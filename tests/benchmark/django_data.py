"""The same for the database of django-otp, in a process of its own: Django is set up only once.

`seed` is what the parent calls; the module itself is what it starts.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import timedelta
from importlib import import_module

from tests.benchmark import database
from tests.benchmark.common import DATABASE_VARIABLE, PASSWORD, SECRET
from tests.benchmark.data import BATCH, Data, Person, Size

DEVICES = "otp_totp_totpdevice"


def seed(url: str, size: Size) -> Data:
    """Fill the tables of Django and django-otp."""
    command = [sys.executable, "-m", __name__, str(size.users), str(size.devices_per_user)]
    made = subprocess.run(
        command, env={**os.environ, DATABASE_VARIABLE: url}, stdout=subprocess.PIPE, check=True
    )
    people = [Person(*values) for values in json.loads(made.stdout)]
    reset = [
        f"UPDATE {DEVICES} SET last_t = -1, drift = 0, throttling_failure_count = 0, "
        "throttling_failure_timestamp = NULL "
        "WHERE (last_t, drift, throttling_failure_count) <> (-1, 0, 0)",
        f"VACUUM {DEVICES}",
        *database.keep_rows(url, "django_session", "session_key"),
        "VACUUM auth_user",  # a log-in writes when it was
    ]
    database.tune(url, "auth_user", DEVICES, "django_session")
    return Data(people, reset)


def main(size: Size) -> list[tuple[str, str, str]]:
    """Seed, and say of everyone that requests are made of: name, device, cookie."""
    from django.contrib.auth.models import User
    from django.contrib.sessions.backends.db import SessionStore
    from django.contrib.sessions.models import Session
    from django.core.management import call_command
    from django.db import connection
    from django.utils import timezone
    from django_otp import DEVICE_ID_SESSION_KEY
    from django_otp.plugins.otp_totp.models import TOTPDevice

    call_command("migrate", verbosity=0)
    user = User(username="user1")
    user.set_password(PASSWORD)
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO auth_user (username, password, first_name, last_name, email, "
            "is_superuser, is_staff, is_active, date_joined) "
            "SELECT 'user' || n, %s, '', '', '', false, false, true, now() "
            "FROM generate_series(1, %s) n ORDER BY n",
            [user.password, size.users],
        )
        cursor.execute(
            f"INSERT INTO {DEVICES} (user_id, name, confirmed, key, step, t0, digits, tolerance, "
            "drift, last_t, throttling_failure_count, created_at) "
            "SELECT u.id, 'phone', true, %s, 30, 0, 6, 1, 0, -1, 0, now() "
            "FROM auth_user u, generate_series(1, %s) n ORDER BY n, u.id",
            [SECRET.hex(), size.devices_per_user],
        )
    active = size.active()
    numbers: dict[int, int] = {}
    for start in range(0, len(active), BATCH):
        rows = TOTPDevice.objects.filter(user_id__in=active[start : start + BATCH])
        for owner, number in rows.order_by("id").values_list("user_id", "id"):
            numbers.setdefault(owner, number)
    store, expires = SessionStore(), timezone.now() + timedelta(days=14)
    made, people = [], []
    for key in active:
        device = f"otp_totp.totpdevice/{numbers[key]}"
        values = {
            "_auth_user_id": str(key),
            "_auth_user_backend": "django.contrib.auth.backends.ModelBackend",
            "_auth_user_hash": user.get_session_auth_hash(),
            DEVICE_ID_SESSION_KEY: device,
        }
        name = f"{key:032}"
        data = store.encode(values)
        made.append(Session(session_key=name, session_data=data, expire_date=expires))
        people.append((f"user{key}", device, f"sessionid={name}"))
    Session.objects.bulk_create(made, batch_size=BATCH)
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO django_session (session_key, session_data, expire_date) "
            "SELECT lpad(n::text, 32, '0'), s.session_data, s.expire_date "
            "FROM generate_series(1, %s) n, (SELECT * FROM django_session LIMIT 1) s "
            "ON CONFLICT DO NOTHING",
            [size.users],
        )
    connection.close_pool()
    return people


if __name__ == "__main__":
    import_module("tests.benchmark.django_site")  # it sets Django up
    json.dump(main(Size(int(sys.argv[1]), int(sys.argv[2]))), sys.stdout)
