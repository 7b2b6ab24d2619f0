"""A tour: all that a user meets, from log-in to log-out, whatever class of users a host has."""

from typing import Annotated, Any

from fastapi import Depends, FastAPI
from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route

from starlette_otp import OTP, LoginView, log_in, login, requires_otp
from starlette_otp.admin import OTPAdmin
from starlette_otp.fastapi import otp_required
from starlette_otp.web.user import RequestUser
from tests.hosts import Host
from tests.support import PASSWORD, SECRET, SECRET_KEY, Browser, add, csrf_of, middleware

NAME = "alice"


class OnePage(LoginView):
    two_stage = False


class TwoPages(LoginView):
    two_stage = True


@requires_otp
async def vault(request: Request) -> Response:
    return PlainTextResponse("treasure")


def make_site(otp: OTP, engine: AsyncEngine, *routes: Route) -> FastAPI:
    """An application with everything that asks who a user is."""
    app = FastAPI(
        routes=[
            Route("/vault", vault),
            *routes,
            Mount("/account", routes=otp.routes(login_view=OnePage), name="otp"),
            Mount("/steps", routes=otp.routes(login_view=TwoPages), name="steps"),
        ],
        middleware=list(middleware(otp)),
    )

    @app.get("/own")
    async def own(user: Annotated[Any, Depends(otp_required())]) -> str:
        return str(otp.device_model.user_key(user))

    OTPAdmin(app, engine, otp=otp)
    return app


async def tour(models: Host, person: Any, engine: AsyncEngine, **settings: Any) -> None:
    """Take a user of a host's, who is staff and has a password, through all of it.

    Args:
        models: the host's classes; their tables are built here.
        person: an instance of its users that is not in the database yet.
        engine: of an empty database.
        settings: of the OTP.
    """
    await models.create_tables(engine)
    sessions = async_sessionmaker(engine)
    otp = OTP(sessions, models.Device, secret_key=SECRET_KEY, **settings)
    async with sessions.begin() as session:
        session.add(person)
    key = models.Device.user_key(person)
    device = models.TOTPDevice(user_id=key, secret=SECRET)
    codes = models.StaticDevice(user_id=key)
    async with sessions.begin() as session:
        session.add_all([device, codes])
        tokens = [await codes.add_token() for _ in range(6)]

    async def enter(request: Request) -> Response:
        """A log-in of the host's own, with a user of a session of its own."""
        async with sessions() as session:
            theirs = await session.get(models.User, key)
        await log_in(request, theirs)
        await login(request, await otp.match_token(theirs, tokens.pop()))
        return PlainTextResponse("in")

    async def signed_in(request: Request) -> Response:
        """How often, by what the request knows of the user."""
        own = RequestUser(await otp.read(lambda session: session.get(models.User, key)), None)
        lists = [await otp.sessions_for_user(user) for user in (request.user, own, person)]
        return JSONResponse([len(found) for found in lists])

    app = make_site(otp, engine, Route("/enter", enter), Route("/signed-in", signed_in))

    async def is_in(browser: Browser) -> None:
        counts = (await browser.get("/signed-in")).json()
        assert counts == [counts[0]] * 3
        assert counts[0] > 0
        assert (await browser.get("/vault")).text == "treasure"
        assert (await browser.get("/own")).json() == str(key)
        listed = await browser.get("/admin/otp-users/list")
        assert f"/admin/otp-users/details/{key}" in listed.text
        assert (await browser.get(f"/admin/otp-users/details/{key}")).status_code == 200
        assert f"/admin/otp-users/details/{key}" in (await browser.get("/admin/otp-totp/list")).text

    async with Browser(app) as browser:
        for path in ("/vault", "/own", "/admin/"):
            assert (await browser.get(path)).status_code == 303
        refused = await browser.log_in(tokens[0], username=NAME, password="not that")
        assert refused.status_code == 200
        entered = await browser.log_in(tokens.pop(), username=NAME)
        assert entered.status_code == 303, entered.text
        await is_in(browser)

    async with Browser(app) as browser:
        asked = await browser.submit("/steps/login", username=NAME, password=PASSWORD)
        if asked.status_code == 303:
            asked = await browser.get(asked.headers["location"])
        fields = {"csrf_token": csrf_of(asked), "otp_token": tokens.pop()}
        entered = await browser.post("/steps/login", data=fields)
        assert entered.status_code == 303, entered.text
        await is_in(browser)
        asked = await browser.get("/account/login?reverify=1")
        fields = {"csrf_token": csrf_of(asked), "otp_token": tokens.pop()}
        entered = await browser.post("/account/login?reverify=1", data=fields)
        assert entered.status_code == 303, entered.text
        await is_in(browser)
        await browser.submit("/account/logout")
        assert (await browser.get("/vault")).status_code == 303

    async with Browser(app) as browser, Browser(app) as office:
        await office.get("/enter")
        await is_in(office)
        await browser.submit("/admin/login", username=NAME, password=PASSWORD)
        entered = await browser.submit(
            "/admin/login", username=NAME, password=PASSWORD, otp_token=tokens.pop()
        )
        assert entered.status_code == 303, entered.text
        await is_in(browser)
        table = models.Device.user_id.property.columns[0]
        (reference,) = table.foreign_keys
        users = reference.column.table
        async with engine.begin() as connection:
            await connection.execute(update(users).values(password_hash="another"))
        assert (await browser.get("/vault")).status_code == 303
        assert (await office.get("/vault")).status_code == 303
    await add(sessions, models.TOTPDevice(user_id=key, confirmed=False))
    await otp.revoke_sessions(person)
