"""The lists and details of devices and users: they show what is named here, and change nothing."""

from __future__ import annotations

import re
import types
import unicodedata
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar, TypeVar
from urllib.parse import quote

from markupsafe import Markup
from sqladmin import ModelView
from sqladmin.authorization import Action
from sqladmin.filters import BooleanFilter
from sqladmin.pagination import Pagination
from sqlalchemy import ColumnElement, Select, false, func, inspect, or_, select
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.exceptions import HTTPException
from starlette.requests import Request

from starlette_otp.account.trusted import trusted_of
from starlette_otp.admin.filters import DevicesFilter, MomentFilter
from starlette_otp.admin.people import People, is_one_of
from starlette_otp.devices.owner import convert_key, is_clean_text, table_of, user_key_column
from starlette_otp.web.verdict import verdict_of

USERS = "otp-users"
"""The identity of the users' view."""
_SEPARATORS = ";|\t"
"""What a spreadsheet may split at and Python's csv does not quote: there another cell begins."""
_FORMULA = "=+-@\N{MINUS SIGN}"
NONE = "\N{EN DASH}"
"""What stands for no moment."""
_V = TypeVar("_V", bound="OTPView")


def moment(row: Any, name: str) -> str:
    """A column's moment as text, in UTC."""
    value = getattr(row, name)
    return f"{value:%Y-%m-%d %H:%M} UTC" if isinstance(value, datetime) else NONE


def lock(row: Any, name: str) -> str:
    """Until when a device does not verify."""
    if row.needs_reset:
        return "until it is reset"
    until = row.locked_until
    return f"{until:%Y-%m-%d %H:%M:%S} UTC" if until is not None else NONE


def without_formulas(text: str) -> str:
    """A text with an apostrophe before whatever a spreadsheet would run (OWASP, CSV injection).

    That is what begins a cell, here or where a spreadsheet splits this one; characters that nobody
    sees, and quotes, are dropped by some of them before they look.
    """
    cells = re.split(f"([{_SEPARATORS}])", text)
    safe = "".join(f"'{cell}" if _is_formula(cell) else cell for cell in cells)
    return f"'{safe}" if safe[:1].isspace() else safe


def _is_formula(cell: str) -> bool:
    seen = (c for c in cell if unicodedata.category(c)[0] not in "CZ" and c not in "'\"")
    first = unicodedata.normalize("NFKC", next(seen, ""))
    return first != "" and first in _FORMULA


def path_key(key: Any) -> str:
    """A key as a part of a path: a text may have characters that end one."""
    return quote(str(key), safe="")


def owner(row: Any, name: str, request: Request) -> Any:
    """The user's name, leading to them."""
    key = getattr(row, name)
    text = row.__dict__.get("otp_owner", key)
    if verdict_of(request).otp.users.model is None:
        return text
    url = request.url_for("admin:details", identity=USERS, pk=path_key(key))
    return Markup('<a href="{}">{}</a>').format(url.path, text)


def person(row: Any, name: str, request: Request) -> Any:
    """A user's name, leading to them."""
    pk = path_key(inspect(row).identity[0])
    url = request.url_for("admin:details", identity=USERS, pk=pk)
    return Markup('<a href="{}">{}</a>').format(url.path, getattr(row, name))


class OTPView(ModelView):
    """What our views share: shown columns are named one by one, and changes are our own pages."""

    can_create = can_edit = can_delete = can_import = False
    model: ClassVar[Any]
    people: ClassVar[People]
    list_template = "otp/admin/list.html"
    details_template = "otp/admin/details.html"
    search_auto_submit = False
    use_pretty_export = True
    addable: ClassVar[bool] = False

    def search_query(self, stmt: Select[Any], term: str) -> Select[Any]:
        """The rows that a search finds."""
        return stmt.where(self.found_by(term))

    def found_by(self, term: str) -> ColumnElement[bool]:
        """A view's own: which rows a search finds."""
        return false()

    async def get_object_for_details(self, request: Request) -> Any:
        """The row, or None for any garbage."""
        key = convert_key(request.path_params["pk"], self.pk_columns[0])
        if key is None:
            return None
        query: Select[Any] = select(self.model).where(self.pk_columns[0] == key)
        rows = await self.with_more(await self._run_query(query))
        return rows[0] if rows else None

    async def list(self, request: Request) -> Pagination:
        """One page of rows."""
        page: Pagination = await super().list(request)
        page.rows = await self.with_more(page.rows)
        return page

    async def get_model_objects(self, request: Request, limit: int | None = 0) -> Any:
        """The rows for an export."""
        return await self.with_more(await super().get_model_objects(request, limit))

    async def with_more(self, rows: Any) -> Any:
        """A view's own: put what the columns need into the rows."""
        return rows

    async def custom_export_cell(self, row: Any, name: str, value: Any) -> str:
        """A cell of an export to CSV; a text is never a formula for a spreadsheet (CWE-1236)."""
        text = "" if value is None else str(value)
        return without_formulas(text) if isinstance(value, str) else text

    async def get_object_filepath(self, identifier: str, column_name: str) -> Path:
        """Nothing of ours is a file."""
        raise HTTPException(404)

    def _build_url_for(self, name: str, request: Request, obj: Any) -> Any:
        pk = path_key(inspect(obj).identity[0])
        return request.url_for(name, identity=self.identity, pk=pk)


class DeviceAdmin(OTPView):
    """The devices of one kind."""

    name_plural: ClassVar[str]
    category = "Devices"
    category_icon = "fa-solid fa-key"
    column_list = [
        "user_id",
        "name",
        "kind",
        "confirmed",
        "created_at",
        "last_used_at",
        "throttling_failure_count",
        "locked_until",
    ]
    more_details: ClassVar[tuple[str, ...]] = (
        "digits",
        "algorithm",
        "step",
        "tolerance",
        "drift",
        "counter",
        "email",
    )
    """What else is shown of a device, as far as its kind has it; never a secret."""
    column_labels: ClassVar[dict[Any, str]] = {
        "id": "Id",
        "user_id": "User",
        "otp_owner": "Username",
        "name": "Name",
        "kind": "Kind",
        "confirmed": "Confirmed",
        "created_at": "Created",
        "last_used_at": "Last used",
        "throttling_failure_count": "Failures",
        "locked_until": "Locked",
        "token_count": "Tokens left",
    } | {name: name.capitalize() for name in more_details}
    column_formatters = {
        "user_id": owner,
        "created_at": moment,
        "last_used_at": moment,
        "locked_until": lock,
    }
    column_formatters_detail = column_formatters
    column_searchable_list = ["name"]
    column_sortable_list = ["name", "created_at", "last_used_at", "throttling_failure_count"]
    column_default_sort = ("id", True)
    column_filters: ClassVar[list[Any]] = [
        BooleanFilter("confirmed", "Confirmed"),
        MomentFilter("created_at", "Created"),
        MomentFilter("last_used_at", "Last used", never=True),
    ]

    def search_placeholder(self) -> str:
        """What a search looks into."""
        return "username, email or name of the device"

    def found_by(self, term: str) -> ColumnElement[bool]:
        """The devices of users, or with names, like the term."""
        if not is_clean_text(term):
            return false()
        mine = self.people.owned_by(self.model.user_id, term)
        return or_(mine, self.model.name.icontains(term, autoescape=True))

    async def with_more(self, rows: Any) -> Any:
        """Put the owners' names into the rows."""
        names = await self.people.names(row.user_id for row in rows)
        for row in rows:
            row.__dict__["otp_owner"] = names.get(row.user_id, str(row.user_id))
        return rows


class StaticDeviceAdmin(DeviceAdmin):
    """Static devices, with the number of tokens each has left."""

    column_list = [*DeviceAdmin.column_list, "token_count"]

    async def with_more(self, rows: Any) -> Any:
        """Put the numbers of tokens into the rows."""
        rows = await super().with_more(rows)
        tokens = self.model.__static_token_model__
        query = (
            select(tokens.device_id, func.count())
            .where(is_one_of(tokens.device_id, [row.id for row in rows]))
            .group_by(tokens.device_id)
        )

        async def work(session: AsyncSession) -> dict[int, int]:
            return {row[0]: row[1] for row in await session.execute(query)}

        counts = await self.people.otp.transactions.read(work)
        for row in rows:
            row.__dict__["token_count"] = counts.get(row.id, 0)
        return rows


def device_of(row: Any, name: str, request: Request) -> Any:
    """A static token's device, leading to it."""
    kind = row.__dict__.get("otp_kind", "static")
    url = request.url_for("admin:details", identity=f"otp-{kind}", pk=str(row.device_id))
    return Markup('<a href="{}">{}</a>').format(url.path, f"{kind}/{row.device_id}")


class StaticTokenAdmin(OTPView):
    """The static tokens that are left, with device and owner; what they are nobody can see."""

    details_template = "sqladmin/details.html"
    name = "Static token"
    name_plural = "Static tokens"
    category = "Devices"
    category_icon = DeviceAdmin.category_icon
    column_list = ["id", "otp_owner", "device_id"]
    column_details_list = column_list
    column_export_list = column_list
    column_labels = {"id": "Id", "otp_owner": "User", "device_id": "Device"}
    column_formatters = {"device_id": device_of}
    column_formatters_detail = column_formatters
    column_sortable_list = ["id", "device_id"]
    column_searchable_list = ["device_id"]
    column_default_sort = ("id", True)

    def search_placeholder(self) -> str:
        """What a search looks into."""
        return "username or email"

    def found_by(self, term: str) -> ColumnElement[bool]:
        """The tokens of users who are named like the term."""
        devices = table_of(self.model.__device_model__)
        mine = select(devices.c.id).where(self.people.owned_by(devices.c.user_id, term))
        found: ColumnElement[bool] = self.model.device_id.in_(mine)
        return found

    async def with_more(self, rows: Any) -> Any:
        """Put the devices' kinds and the owners' names into the rows."""
        devices = table_of(self.model.__device_model__)
        query = select(devices.c.id, devices.c.kind, devices.c.user_id).where(
            is_one_of(devices.c.id, {row.device_id for row in rows})
        )

        async def work(session: AsyncSession) -> dict[int, Any]:
            return {row.id: row for row in await session.execute(query)}

        found = await self.people.otp.transactions.read(work)
        names = await self.people.names(device.user_id for device in found.values())
        for row in rows:
            device = found.get(row.device_id)
            row.__dict__["otp_kind"] = device.kind if device else "static"
            row.__dict__["otp_owner"] = names[device.user_id] if device else NONE
        return rows


class UserAdmin(OTPView):
    """The users, to find one and see their devices."""

    name = "User"
    name_plural = "Users"
    icon = "fa-solid fa-users"
    details_template = "otp/admin/user.html"
    shown: ClassVar[tuple[str, ...]] = ("username", "email", "is_active", "is_staff")
    """What is shown of a user, as far as the model has it; never a password's hash."""
    column_labels = {
        "username": "Username",
        "email": "Email",
        "is_active": "Active",
        "is_staff": "Staff",
    }
    column_formatters = {"username": person}
    column_searchable_list = ["username", "email"]

    def get_filters(self) -> list[Any]:
        """A view's own, and who has a device or none yet."""
        devices, key = table_of(self.people.otp.device_model).c, user_key_column(self.model)
        mine = DevicesFilter(devices.user_id, devices.confirmed, key)
        return [*super().get_filters(), mine]

    def search_placeholder(self) -> str:
        """What a search looks into."""
        return "username or email"

    def found_by(self, term: str) -> ColumnElement[bool]:
        """The users who are named like the term."""
        return self.people.matching(term)

    async def details_context(self, request: Request) -> dict[str, Any]:
        """The user's devices and the number of their sessions."""
        otp = self.people.otp
        key = convert_key(request.path_params["pk"], table_of(otp.device_model).c.user_id)
        devices = otp.device_model
        query = select(devices).where(devices.user_id == key, devices.kind.in_(devices.kinds()))
        sessions = otp.sessions.model
        count = select(func.count()).where(sessions.user_id == key)

        async def work(session: AsyncSession) -> tuple[Any, int]:
            found = list(await session.scalars(query.order_by(devices.id)))
            return found, await session.scalar(count) or 0

        found, number = await otp.transactions.read(work)
        user = await self.people.get(request, key)
        return {
            "agents": await trusted_of(request, user),
            "devices": [device for device in found if self._may_see(request, device)],
            "session_count": number,
            "moment": moment,
            "lock": lock,
            "label": self.people.label,
        }

    def _may_see(self, request: Request, device: Any) -> bool:
        views = [v for v in self._admin_ref.views if getattr(v, "model", None) is type(device)]
        return any(
            isinstance(view, DeviceAdmin)
            and view.is_accessible(request)
            and view.has_permission(request, Action.DETAILS, device)
            for view in views
        )


def view_of(base: type[_V], model: type[Any], **attributes: Any) -> type[_V]:
    """A view of `model`, made of one of the classes above."""
    identity = attributes.pop("identity")
    made: Any = types.new_class(
        f"{model.__name__}Admin",
        (base,),
        {"model": model},
        lambda namespace: namespace.update(attributes),
    )
    # The metaclass takes the model's name, which the host's own view of it has, too.
    made.identity = identity
    view: type[_V] = made
    return view
