"""Our own pages of the site: to add a device, to do something with one, to see its key."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any, Protocol
from urllib.parse import quote

import segno
from sqladmin.authorization import Action
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from starlette_otp.account.sessions import number
from starlette_otp.admin.changes import SECRET_SHOWN, Changes
from starlette_otp.admin.forms import AddDeviceForm
from starlette_otp.admin.gate import AdminSite
from starlette_otp.admin.people import People
from starlette_otp.admin.views import USERS
from starlette_otp.devices.otpauth import OTPAuthMixin
from starlette_otp.devices.owner import convert_key, table_of
from starlette_otp.devices.static import StaticDeviceMixin
from starlette_otp.exceptions import SecretUnreadable
from starlette_otp.web.body import submitted
from starlette_otp.web.site import Site


class Shown(AdminSite, Protocol):
    """What the screens ask of OTPAdmin, besides what the gate asks."""

    otp: Site
    people: People
    show_sensitive: bool

    def is_addable(self, model: type[Any]) -> bool:
        """Whether the site knows how to make a device of this kind."""

    def _find_model_view(self, identity: str) -> Any: ...


class Screens:
    """The pages of one site."""

    def __init__(self, site: Shown) -> None:
        self.site = site
        self.people = site.people

    async def add(self, request: Request) -> Response:
        """The form for a new device; after it, the device's QR code or tokens, this once."""
        model = self._model(request, Action.CREATE)
        if not self.site.is_addable(model):
            raise HTTPException(404)
        form = await AddDeviceForm.from_formdata(request)
        form.bind(self.people, model)
        if form.is_submitted():
            if await form.validate():
                device = model(**form.values())
                added = await Changes(request).add(form.owner, device, form.sent_before())
                if added is not None:
                    there, tokens = added
                    if there is device:
                        return await self._show(request, form.owner, device, tokens)
                    return self._to_details(request, there)
                form.add_error("unknown_user", form.user)
        else:
            form.user.data = request.query_params.get("user", "")[:254]
            form.newest.data = str(await self._newest())
        context = {"form": form, "model_view": self._view(model)}
        status_code = 400 if form.error_codes else 200
        return await self._page(request, "otp/admin/add.html", context, status_code)

    async def act(self, request: Request) -> Response:
        """Do what the path names to the device that it names."""
        action = request.path_params["action"]
        needed = Action.DELETE if action == "delete" else Action.EDIT
        device = await self._device(request, needed)
        user = await self.people.get(request, device.user_id)
        changes = Changes(request)
        if action == "replace-tokens" and isinstance(device, StaticDeviceMixin):
            tokens = await changes.replace_tokens(user, device)
            if tokens is None:
                raise HTTPException(404)
            return await self._show(request, user, device, tokens)
        if action == "delete":
            await changes.remove(user, device)
            return self._to(request, "list", identity=f"otp-{device.kind}")
        does = {
            "reset-throttling": changes.reset,
            "confirm": changes.confirm,
            "revoke-sessions": changes.revoke,
        }
        if action not in does:
            raise HTTPException(404)
        await does[action](user, device)
        return self._to_details(request, device)

    async def revoke(self, request: Request) -> Response:
        """End all sessions of the user whom the form names."""
        user, pk = await self._user(request)
        await Changes(request).revoke(user)
        return self._to(request, "details", identity=USERS, pk=pk)

    async def end_agent(self, request: Request) -> Response:
        """End the trust in the browser that the form names, of the user whom it names."""
        user, pk = await self._user(request)
        await Changes(request).end_agent(user, number((await submitted(request)).get("agent")))
        return self._to(request, "details", identity=USERS, pk=pk)

    async def _user(self, request: Request) -> tuple[Any, str]:
        """The user whom a form names, and their key there; 403 for who may not edit them."""
        view = self._named(USERS)
        if not view.is_accessible(request) or not view.has_permission(request, Action.EDIT):
            raise HTTPException(403)
        key = (await submitted(request)).get("user")
        user = await self.site.otp.users.load(request, key)
        if user is None:
            raise HTTPException(404)
        if not view.has_permission(request, Action.EDIT, user):
            raise HTTPException(403)
        return user, str(key)

    async def config(self, request: Request) -> Response:
        """A device's key and QR code, if the site shows them, for those who may edit."""
        device, user = await self._sensitive(request)
        return await self._show(request, user, device, [])

    async def qr(self, request: Request) -> Response:
        """The QR code alone, as SVG."""
        device, user = await self._sensitive(request)
        image = io.BytesIO()
        self._code(user, device).save(image, kind="svg", **_LOOK)
        return Response(image.getvalue(), media_type="image/svg+xml")

    async def _sensitive(self, request: Request) -> tuple[Any, Any]:
        if not self.site.show_sensitive:
            raise HTTPException(403, "This site shows no sensitive data.")
        device = await self._device(request, Action.EDIT)
        if not isinstance(device, OTPAuthMixin):
            raise HTTPException(404)
        user = await self.people.get(request, device.user_id)
        await Changes(request).tell(SECRET_SHOWN, user, device)
        return device, user

    async def _show(
        self, request: Request, user: Any, device: Any, tokens: Sequence[str]
    ) -> Response:
        """The page with what is secret of a device, never stored."""
        context: dict[str, Any] = {"device": device, "tokens": tokens, "qr": None}
        if isinstance(device, OTPAuthMixin):
            context["qr"] = self._code(user, device).svg_inline(**_LOOK)
            context["key"] = base64.b32encode(device.secret).decode().rstrip("=")
        context |= {"owner": self.people.label(user), "model_view": self._view(type(device))}
        return await self._page(request, "otp/admin/secret.html", context)

    def _code(self, user: Any, device: Any) -> Any:
        try:
            # A QR code holds some 2,000 characters, and each of a name may take twelve.
            return segno.make(device.config_url(self.people.label(user)[:64]), error="m")
        except SecretUnreadable as exc:
            raise HTTPException(409, "This device's key can't be read.") from exc

    async def _device(self, request: Request, action: str) -> Any:
        model = self._model(request, action)
        key = convert_key(request.path_params["pk"], table_of(model).c.id)

        async def work(session: AsyncSession) -> Any:
            return await session.scalar(select(model).where(model.id == key))

        device = None if key is None else await self.site.otp.transactions.read(work)
        if device is None:
            raise HTTPException(404)
        if not self._view(model).has_permission(request, action, device):
            raise HTTPException(403)
        return device

    def _model(self, request: Request, action: str) -> type[Any]:
        """The kind of device that the path names; 403 if this user may not do that to it."""
        kinds: dict[str, type[Any]] = self.site.otp.device_model.kinds()
        model = kinds.get(request.path_params["kind"])
        if model is None:
            raise HTTPException(404)
        view = self._view(model)
        if not view.is_accessible(request) or not view.has_permission(request, action):
            raise HTTPException(403)
        return model

    def _view(self, model: type[Any]) -> Any:
        return self._named(f"otp-{model.__kind__}")

    def _named(self, identity: str) -> Any:
        return self.site._find_model_view(identity)

    async def _newest(self) -> int:
        table = table_of(self.site.otp.device_model)

        async def work(session: AsyncSession) -> int:
            return await session.scalar(select(func.max(table.c.id))) or 0

        return await self.site.otp.transactions.read(work)

    def _to_details(self, request: Request, device: Any) -> Response:
        return self._to(request, "details", identity=f"otp-{device.kind}", pk=str(device.id))

    def _to(self, request: Request, name: str, **path_params: str) -> Response:
        quoted = {name: quote(value, safe="") for name, value in path_params.items()}
        return RedirectResponse(request.url_for(f"admin:{name}", **quoted).path, 303)

    async def _page(
        self, request: Request, template: str, context: dict[str, Any], status_code: int = 200
    ) -> Response:
        return await self.site.templates.TemplateResponse(request, template, context, status_code)


_LOOK: dict[str, Any] = {"scale": 5, "border": 4, "dark": "#000", "light": "#fff"}
"""Black on white with its margin, whatever the page's colours are: cameras want it so."""


def routes(site: Shown) -> list[BaseRoute]:
    """The routes of our own pages."""
    screens, device = Screens(site), "/otp/device/{kind}/{pk}"
    return [
        Route("/otp/add/{kind}", screens.add, methods=["GET", "POST"], name="otp-add"),
        Route(f"{device}/config", screens.config, methods=["GET"], name="otp-config"),
        Route(f"{device}/qr.svg", screens.qr, methods=["GET"], name="otp-qr"),
        Route(f"{device}/{{action}}", screens.act, methods=["POST"], name="otp-act"),
        Route("/otp/user/revoke-sessions", screens.revoke, methods=["POST"], name="otp-revoke"),
        Route("/otp/user/end-agent", screens.end_agent, methods=["POST"], name="otp-end-agent"),
    ]
