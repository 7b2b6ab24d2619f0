"""Every URL that an admin site has."""

import itertools
import re
from collections.abc import Iterator

from starlette.routing import Mount, Route

from starlette_otp.admin import OTPAdmin

OPEN = {"/login", "/logout"}
"""The doors, which let everybody in."""
ACTIONS = ["reset-throttling", "confirm", "revoke-sessions", "replace-tokens", "delete"]


def urls(admin: OTPAdmin, **values: list[str]) -> Iterator[tuple[str, set[str]]]:
    """Each URL with the methods that it answers; `values` fill in the paths' parameters."""
    fill = {
        "identity": [view.identity for view in admin.views],
        "kind": list(admin.otp.device_model.kinds()),
        "pk": ["1"],
        "action": ACTIONS,
        "export_type": ["csv", "json"],
        "column_name": ["sealed_secret", "password_hash"],
        **values,
    }
    for route in admin.admin.routes:
        assert isinstance(route, Route | Mount), route
        if isinstance(route, Mount) or route.path in OPEN:
            continue
        names = re.findall(r"{(\w+)", route.path)
        template = re.sub(r"{(\w+)(:\w+)?}", r"{\1}", route.path)
        for choice in itertools.product(*(fill[name] for name in names)):
            path = template.format(**dict(zip(names, choice, strict=True)))
            yield f"{admin.base_url}{path}", set(route.methods or ())
