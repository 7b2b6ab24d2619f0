"""Kinds of device as somebody else writes them, and an application that has them."""

import hmac
from dataclasses import dataclass
from typing import Any

from sqlalchemy import String
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker
from sqlalchemy.orm import Mapped, mapped_column

from starlette_otp import OTP
from starlette_otp.devices import CooldownMixin
from tests.hosts import Host, make_host
from tests.support import (
    SECRET_KEY,
    Browser,
    CodesView,
    Sessions,
    add,
    make_app,
    password_hash,
)

WORD = "swordfish"


def password_of_the_day(device: Any) -> type[Any]:
    """A column of its own, and a check."""

    class WordDevice(device):
        word: Mapped[str | None] = mapped_column(String(32))

        async def check_token(self, token: str) -> bool:
            right = bool(self.word) and hmac.compare_digest(
                str(self.word).encode(), token.encode(errors="replace")
            )
            if right:
                self.word = None
            return right

    return WordDevice


def pager(device: Any) -> type[Any]:
    """A challenge of its own, delivered, with a cooldown."""

    class PagerDevice(CooldownMixin, device):
        number: Mapped[str | None] = mapped_column(String(16))
        code: Mapped[str | None] = mapped_column(String(16))
        sent: list[dict[str, Any]] = []
        broken = False

        async def prepare_challenge(self, **context: Any) -> str:
            self.code = f"code {context.get('reason', 'none')}"
            self.delivery["code"] = self.code
            return f"Look at pager {self.number}."

        async def deliver(self, code: str, **context: Any) -> None:
            if self.broken:
                raise RuntimeError("no signal")
            self.sent.append({"code": code, **context})

        async def check_token(self, token: str) -> bool:
            right = self.code is not None and token == self.code
            if right:
                self.code = None
            return right

    return PagerDevice


@dataclass
class Application:
    """A host with kinds of its own, and a user."""

    models: Host
    sessions: Sessions
    otp: OTP
    alice: Any
    kinds: dict[str, type[Any]]

    async def make(self, kind: str, **values: Any) -> Any:
        return await add(self.sessions, self.kinds[kind](user_id=self.alice.id, **values))

    def browser(self) -> Browser:
        return Browser(make_app(self.otp, login_view=CodesView))


async def application(engine: AsyncEngine, *declare: Any) -> Application:
    models = make_host()
    made = {model.__kind__: model for model in (kind(models.Device) for kind in declare)}
    await models.create_tables(engine)
    sessions = async_sessionmaker(engine, expire_on_commit=False)
    alice = await add(sessions, models.User(username="alice", password_hash=password_hash()))
    otp = OTP(sessions, models.Device, secret_key=SECRET_KEY)
    return Application(models, sessions, otp, alice, made)
