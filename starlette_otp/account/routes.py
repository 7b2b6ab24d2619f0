"""The routes of the account pages."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.routing import BaseRoute, Route

from starlette_otp.account import qr
from starlette_otp.account.devices import AddView, ConfirmView, RemoveView, RenameView
from starlette_otp.account.overview import OverviewView
from starlette_otp.account.password import PasswordView, ReauthenticateView
from starlette_otp.account.recovery_codes import RecoveryCodesView
from starlette_otp.account.sessions import (
    EndAgentView,
    EndOthersView,
    EndView,
    SessionsView,
)
from starlette_otp.web.body import MAX_BODY

_VIEWS = (
    ("/", OverviewView, "account"),
    ("/devices/add", AddView, "add_device"),
    ("/devices/{kind}/{id}/confirm", ConfirmView, "confirm_device"),
    ("/devices/{kind}/{id}/rename", RenameView, "rename_device"),
    ("/devices/{kind}/{id}/remove", RemoveView, "remove_device"),
    ("/recovery-codes", RecoveryCodesView, "recovery_codes"),
    ("/sessions", SessionsView, "sessions"),
    ("/sessions/end-others", EndOthersView, "end_other_sessions"),
    ("/sessions/{id}/end", EndView, "end_session"),
    ("/agents/{id}/end", EndAgentView, "end_agent"),
    ("/password", PasswordView, "password"),
    ("/reauthenticate", ReauthenticateView, "reauthenticate"),
)


def routes() -> Sequence[BaseRoute]:
    """The routes for the same mount as the log-in's."""
    qr.warn_of_missing()
    return [Route(path, view, name=name, max_body_size=MAX_BODY) for path, view, name in _VIEWS]
