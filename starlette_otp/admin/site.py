"""OTPAdmin: the admin site."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from types import MethodType
from typing import Any, ClassVar

from jinja2 import ChoiceLoader, FileSystemLoader
from sqladmin import Admin
from sqladmin.templating import Jinja2Templates
from sqlalchemy import inspect
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from starlette_otp.admin.gate import Gate, csrf_token
from starlette_otp.admin.login import (
    OTPAdminAuthenticationForm,
    OTPAdminLoginView,
    OTPAdminLogoutView,
    is_staff,
)
from starlette_otp.admin.people import People
from starlette_otp.admin.screens import routes
from starlette_otp.admin.views import (
    USERS,
    DeviceAdmin,
    StaticDeviceAdmin,
    StaticTokenAdmin,
    UserAdmin,
    view_of,
)
from starlette_otp.devices.email import EmailDeviceMixin
from starlette_otp.devices.otpauth import OTPAuthMixin
from starlette_otp.devices.static import StaticDeviceMixin
from starlette_otp.devices.users import called
from starlette_otp.exceptions import ConfigurationError, DatabaseUnavailable, is_away
from starlette_otp.resources import TEMPLATES
from starlette_otp.web.base_form import BaseForm
from starlette_otp.web.body import MAX_BODY
from starlette_otp.web.notice import failures_before
from starlette_otp.web.responses import unavailable
from starlette_otp.web.site import Site
from starlette_otp.web.trust import is_trusted
from starlette_otp.web.verdict import verdict_of


class _Unmounted:
    """Stands in for the application while sqladmin mounts what has no gate yet."""

    def mount(self, *args: Any, **kwargs: Any) -> None:
        """Nothing."""


class OTPAdmin(Admin):
    """A sqladmin site for staff who are active and verified; all others meet its log-in.

    It stands behind the application's own SessionMiddleware, AuthenticationMiddleware and
    OTPMiddleware, and installs none. Sensitive data is hidden unless asked for, the reverse of
    django-otp's default. Every change, those of the host's own views too, wants a CSRF token and a
    verification that is not old (OWASP ASVS 7.5.3).

    Args:
        app: the application to mount it on.
        engine_or_sessions: the host's AsyncEngine or async_sessionmaker, which is left as it is.
        otp: the application's OTP.
        show_sensitive: let those who may edit see keys and QR codes of devices at any time.
        max_age: seconds; who was verified longer ago verifies again before a change, and before a
            page that shows a secret or has a form for a change. None: never.
        accept_trusted_agent: let staff look who trust this browser, and are not verified; changes
            ask for a token all the same.
        name: of the mount, for `url_for("otpadmin:index")`.
        views: register the views of devices and users, too.
        options: as sqladmin's Admin takes them (base_url, title, authorization_backend, ...).

    Raises:
        ConfigurationError: an engine that is not async, or an authentication_backend.
    """

    login_form: ClassVar[type[BaseForm]] = OTPAdminAuthenticationForm
    login_template: ClassVar[str] = "otp/admin/login.html"
    login_view: ClassVar[type[OTPAdminLoginView]] = OTPAdminLoginView
    device_view: ClassVar[type[DeviceAdmin]] = DeviceAdmin
    static_device_view: ClassVar[type[StaticDeviceAdmin]] = StaticDeviceAdmin
    static_token_view: ClassVar[type[StaticTokenAdmin]] = StaticTokenAdmin
    user_view: ClassVar[type[UserAdmin]] = UserAdmin
    max_body_size: int = 16 * 2**20
    """Bytes of a form, uploads included."""

    def __init__(
        self,
        app: Starlette,
        engine_or_sessions: AsyncEngine | async_sessionmaker[Any],
        *,
        otp: Site,
        show_sensitive: bool = False,
        max_age: float | None = 300,
        accept_trusted_agent: bool = False,
        name: str = "otpadmin",
        views: bool = True,
        **options: Any,
    ) -> None:
        if options.get("authentication_backend") is not None:
            raise ConfigurationError(
                "OTPAdmin is its own authentication: override its has_permission instead of "
                "giving an authentication_backend."
            )
        self.otp, self.show_sensitive, self.name = otp, show_sensitive, name
        self.max_age, self.accept_trusted_agent = max_age, accept_trusted_agent
        if accept_trusted_agent and otp.browsers is None:
            raise ConfigurationError(
                "OTPAdmin(accept_trusted_agent=True) needs a class with AgentMixin."
            )
        self.people = People(otp)
        made = {"session_maker": own_sessions(engine_or_sessions), **options}
        super().__init__(_Unmounted(), **made)  # type: ignore[arg-type]
        self.app = app
        self._install_routes()
        self._install_handlers()
        app.mount(self.base_url, app=Gate(self.admin, self), name=name)
        if views:
            self.add_otp_views()

    def has_permission(self, request: Request) -> bool | Awaitable[bool]:
        """Whether the request may use the site: its user is active, staff and verified.

        With `accept_trusted_agent` it is enough that they trust this browser. Override it, sync or
        async, to narrow it further.
        """
        verdict = verdict_of(request)
        if verdict.device is None and self.accept_trusted_agent and is_staff(verdict.user):
            return is_trusted(request, verdict)
        return verdict.device is not None and is_staff(verdict.user)

    def is_addable(self, model: type[Any]) -> bool:
        """Whether the site knows how to make a device of this kind."""
        return issubclass(model, OTPAuthMixin | StaticDeviceMixin | EmailDeviceMixin)

    def add_otp_views(self) -> None:
        """Register a view for every kind of device of the host's, for static tokens and users."""
        for kind, model in self.otp.device_model.kinds().items():
            base = self.device_view
            if issubclass(model, StaticDeviceMixin):
                base = self.static_device_view
            columns = set(inspect(model).columns.keys())
            title = model.__name__.removesuffix("Device")
            self.add_view(
                view_of(
                    base,
                    model,
                    identity=f"otp-{kind}",
                    name=f"{title} device",
                    name_plural=f"{title} devices",
                    people=self.people,
                    addable=self.is_addable(model),
                    column_details_list=[
                        "id",
                        *base.column_list,
                        *(name for name in base.more_details if name in columns),
                    ],
                    column_export_list=["otp_owner", *base.column_list],
                )
            )
        tokens = self.otp.device_model.__static_token_model__
        if tokens is not None:
            view = self.static_token_view
            self.add_view(view_of(view, tokens, identity="otp-tokens", people=self.people))
        if self.otp.users.model is not None:
            self._add_users(self.otp.users.model)

    def _add_users(self, model: type[Any]) -> None:
        key = self.people.key_attribute
        known = set(inspect(model).all_orm_descriptors.keys())
        columns = [key, *(name for name in self.user_view.shown if name in known)]
        self.add_view(
            view_of(
                self.user_view,
                model,
                identity=USERS,
                people=self.people,
                column_list=columns,
                column_details_list=columns,
                column_export_list=columns,
                column_default_sort=[(key, False)],
                column_labels={key: "Id", **self.user_view.column_labels},
            )
        )

    def _install_routes(self) -> None:
        attributes = {
            "site": self,
            "authentication_form": self.login_form,
            "template_name": self.login_template,
        }
        login = type("Login", (self.login_view,), attributes)
        replaced = ("login", "logout")
        kept = [r for r in self.admin.router.routes if getattr(r, "name", "") not in replaced]
        self.admin.router.routes = [
            Route("/login", login, name="login", max_body_size=MAX_BODY),
            Route("/logout", OTPAdminLogoutView, name="logout", max_body_size=MAX_BODY),
            Mount("/static", StaticFiles(directory=TEMPLATES / "otp" / "static"), name="static"),
            *routes(self),
            *kept,
        ]

    def _install_handlers(self) -> None:
        async def away(request: Request, exc: Exception) -> Response:
            if not is_away(exc):
                raise exc
            return unavailable(request, request.scope.get("root_path", ""))

        handlers = self.admin.exception_handlers
        for kind in (DatabaseUnavailable, OSError, SQLAlchemyError):
            handlers[kind] = away

    def init_templating_engine(self) -> Jinja2Templates:
        """sqladmin's templates, under the host's and ours."""
        templates = super().init_templating_engine()
        env = templates.env
        made: Any = env.loader
        host, *shipped = made.loaders
        ours = self.otp.templates.env.loader
        loaders = [host, *([ours] if ours else []), FileSystemLoader(TEMPLATES / "otp" / "admin")]
        env.loader = ChoiceLoader([*loaders, *shipped])
        env.filters["otp_called"] = called
        env.globals["otp_csrf_token"] = csrf_token
        env.globals["failures_before"] = failures_before
        env.globals["get_object_identifier"] = identifier
        return templates

    def _handle_action_decorated_func(self, func: MethodType, view: Any, instance: Any) -> None:
        """Let a host's `@action` answer POST alone: as GET, any link could trigger it."""
        before = len(self.admin.router.routes)
        super()._handle_action_decorated_func(func, view, instance)
        for route in self.admin.router.routes[before:]:
            if isinstance(route, Route):
                route.methods = {"POST"}


def own_sessions(
    engine_or_sessions: AsyncEngine | async_sessionmaker[Any],
) -> async_sessionmaker[AsyncSession]:
    """A sessionmaker for sqladmin to reconfigure, on the same engine.

    Raises:
        ConfigurationError: it is neither.
    """
    if isinstance(engine_or_sessions, AsyncEngine):
        return async_sessionmaker(engine_or_sessions)
    if isinstance(engine_or_sessions, async_sessionmaker):
        return async_sessionmaker(class_=engine_or_sessions.class_, **engine_or_sessions.kw)
    raise ConfigurationError("OTPAdmin needs an AsyncEngine or an async_sessionmaker.")


def identifier(row: Any) -> Any:
    """A row's key, whatever its attribute is called; of several columns, as sqladmin joins them."""
    key: Sequence[Any] = inspect(row).identity
    if len(key) == 1:
        return key[0]
    return ";".join(str(v).replace("\\", "\\\\").replace(";", r"\;") for v in key)
