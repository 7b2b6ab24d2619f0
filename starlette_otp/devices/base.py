"""DeviceMixin: the table `otp_device`, and the contract to verify and challenge."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any, ClassVar, Self

from jinja2 import Environment
from sqlalchemy import (
    BigInteger,
    Identity,
    Select,
    String,
    false,
    inspect,
    select,
)
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import (
    Mapped,
    Mapper,
    declared_attr,
    has_inherited_table,
    mapped_column,
    validates,
)

from starlette_otp import clock
from starlette_otp.devices.locking import locked, require_read_committed
from starlette_otp.devices.owner import (
    convert_key,
    is_clean_text,
    raw_user_key,
    table_of,
    user_id_column,
)
from starlette_otp.devices.persistent_id import parse_persistent_id
from starlette_otp.devices.policies import (
    CooldownMixin,
    Permission,
    ThrottlingMixin,
    TimestampMixin,
)
from starlette_otp.devices.sealing import SealedSecretMixin
from starlette_otp.devices.words import WordsMixin, words_of
from starlette_otp.exceptions import ConfigurationError


class DeviceMixin(WordsMixin, ThrottlingMixin, TimestampMixin, SealedSecretMixin):
    """A device: a row that can verify tokens. The host puts this on its own DeclarativeBase.

    The host sets `__user_model__` to its user class, or declares `user_id: Mapped[str]` itself
    when its users live elsewhere. Every subclass is one kind of device in the same table and is
    installed by being declared. A kind says what is its own: `check_token`, and if it is
    interactive `prepare_challenge` and `deliver`. Confirmation, ownership, throttling and counting
    are done here, the same for every kind.
    """

    __user_model__: ClassVar[type[Any] | None] = None
    __kind__: ClassVar[str]
    """The discriminator; unless set it is the class's name, lower case, less "device"."""
    __kind_defaults__: ClassVar[Mapping[str, Any]] = {}
    """What a new device of this kind starts with. Kinds share columns, so these can't be defaults
    of the columns: the second kind would get the first one's."""
    __environment__: ClassVar[Environment | None] = None
    __site_name__: ClassVar[str] = ""
    __session_model__: ClassVar[type[Any] | None] = None
    __agent_model__: ClassVar[type[Any] | None] = None
    __static_token_model__: ClassVar[type[Any] | None] = None
    __login_throttle_model__: ClassVar[type[Any] | None] = None
    __challenge_limit_model__: ClassVar[type[Any] | None] = None

    amr: ClassVar[str] = "otp"
    """What verifying with this kind is called where sessions are described (RFC 8176): "sms"."""

    enrollable: ClassVar[bool] = True
    """Whether people may add such a device to their account themselves, on the account pages."""
    enrolment_fields: ClassVar[Sequence[str]] = ()
    """The columns, of text, that whoever adds such a device is asked for, as `("number",)`. It is
    confirmed by a token, which answers its own challenge if it has one. A kind without them is
    not offered on the account pages, authenticator apps aside."""

    pending_max_age: ClassVar[float | None] = 600
    """Seconds in which a new device has to be confirmed; None: any time."""
    max_pending: ClassVar[int | None] = 5
    """Devices that wait to be confirmed, of one user; None: any number."""

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    kind: Mapped[str] = mapped_column(String(32))
    name: Mapped[str] = mapped_column(String(64), default="", server_default="")
    confirmed: Mapped[bool] = mapped_column(default=True, server_default="true")
    accepted_digest: Mapped[str | None] = mapped_column(String(64))
    """Of the token that was accepted last and of the browser session that sent it."""

    @validates("name")
    def _validate_name(self, key: str, value: str) -> str:
        longest = getattr(table_of(type(self)).c.name.type, "length", None)
        if not isinstance(value, str) or not is_clean_text(value):  # type: ignore[redundant-expr]
            raise ValueError("name is a text without NUL and lone surrogates.")
        if longest is not None and len(value) > longest:
            raise ValueError(f"name has at most {longest} characters.")
        return value

    def __init_subclass__(cls, **kwargs: Any) -> None:
        is_kind = has_inherited_table(cls) and not vars(cls).get("__abstract__")
        if is_kind and not hasattr(cls, "__kind__"):
            cls.__kind__ = cls.__name__.lower().removesuffix("device") or "device"
        if is_kind and not cls.kind_name:
            cls.kind_name = words_of(cls.__name__)
        super().__init_subclass__(**kwargs)

    def __init__(self, **values: Any) -> None:
        defaults = {"confirmed": True, "name": "", "throttling_failure_count": 0}
        super().__init__(**{**defaults, **self.__kind_defaults__, **values})

    @declared_attr.directive
    @classmethod
    def __tablename__(cls) -> str | None:
        return None if has_inherited_table(cls) else "otp_device"

    @declared_attr.directive
    @classmethod
    def __mapper_args__(cls) -> dict[str, Any]:
        if not hasattr(cls, "registry"):
            # A mixin is mapped to nothing. advanced-alchemy's bases ask each parent whether its
            # table is one to share, and would leave the first class without.
            return {}
        if not has_inherited_table(cls):
            # Every kind's columns in one SELECT, also those of a kind with mapper arguments of its
            # own: what is not loaded can't be loaded later, in async code.
            inline = {"with_polymorphic": "*"}
            return {"polymorphic_on": "kind", "polymorphic_abstract": True, **inline}
        mappers: Iterable[object] = (inspect(base, raiseerr=False) for base in cls.__mro__[1:])
        parent = next(mapper for mapper in mappers if isinstance(mapper, Mapper))
        if cls.__kind__ in parent.polymorphic_map:
            # Two classes of one kind: OTP refuses them by name. SQLAlchemy would only warn, and
            # load the rows of the first class as the second.
            return {"polymorphic_abstract": True}
        return {"polymorphic_identity": cls.__kind__, "polymorphic_load": "inline"}

    @declared_attr
    @classmethod
    def user_id(cls) -> Mapped[Any]:
        if cls.__user_model__ is None:
            raise ConfigurationError(
                f"{cls.__name__} needs __user_model__, or a user_id: Mapped[str] column of its own."
            )
        return user_id_column(cls.__user_model__)

    # Who and which.

    @classmethod
    def user_key(cls, user: object) -> Any:
        """The user's key as a value of `user_id`, or None for nobody.

        Nobody is None, a user who is not authenticated, and one whose key does not convert.
        """
        return convert_key(raw_user_key(user, cls.__user_model__), table_of(cls).c.user_id)

    @classmethod
    def kinds(cls) -> dict[str, type[Self]]:
        """The declared kinds of device at and below this class."""
        mappers: Iterable[Mapper[Self]] = inspect(cls).self_and_descendants
        return {m.polymorphic_identity: m.class_ for m in mappers if m.polymorphic_identity}

    @classmethod
    def kind_named(cls, kind: str) -> type[Self] | None:
        """The class of that kind at or below this class, or None."""
        mapper = inspect(cls).polymorphic_map.get(kind)
        is_ours = mapper is not None and issubclass(mapper.class_, cls)
        return mapper.class_ if mapper is not None and is_ours else None

    @classmethod
    def devices_for_user(cls, user: object, confirmed: bool | None = None) -> Select[Self]:
        """A SELECT of a user's devices of this class, by id; of none for nobody.

        Args:
            user: the user; anonymous has no devices.
            confirmed: only the confirmed, only the unconfirmed, or None for all.
        """
        key = cls.user_key(user)
        # Rows of a kind that this host does not declare would be an error when loaded.
        query = select(cls).where(cls.kind.in_(cls.kinds())).order_by(cls.id)
        query = query.where(false() if key is None else cls.user_id == key)
        return query if confirmed is None else query.where(cls.confirmed.is_(confirmed))

    @classmethod
    async def from_persistent_id(
        cls, session: AsyncSession, persistent_id: str, for_verify: bool = False
    ) -> Self | None:
        """The device with this persistent id, or None, whatever garbage is given for an id.

        Args:
            session: the caller's session.
            persistent_id: as the attribute of that name gives it.
            for_verify: lock the row for the rest of the transaction.

        Raises:
            TransactionRequired: `for_verify` in a transaction that is not READ COMMITTED.
        """
        kind, device_id = parse_persistent_id(persistent_id)
        if kind not in cls.kinds():
            return None
        query = select(cls).where(cls.id == device_id, cls.kind == kind)
        if for_verify:
            await require_read_committed(session, cls)
            query = locked(query)
        return await session.scalar(query)

    @property
    def persistent_id(self) -> str:
        """What names this device outside the database: kind, slash, id."""
        return f"{self.kind}/{self.id}"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, DeviceMixin):
            return NotImplemented
        mine = inspect(self).identity
        return self is other or (
            mine is not None and type(self) is type(other) and mine == inspect(other).identity
        )

    def __hash__(self) -> int:
        identity = inspect(self).identity
        return object.__hash__(self) if identity is None else hash((type(self), identity))

    def __repr__(self) -> str:
        identity = inspect(self).identity
        number = "unsaved" if identity is None else identity[0]
        return f"<{type(self).__name__} {self.__kind__}/{number}>"

    @classmethod
    def environment(cls) -> Environment:
        """The templates that OTP handed to this model."""
        if cls.__environment__ is None:
            raise ConfigurationError(
                f"{cls.__name__} has no templates: make an OTP(...) over its device model first."
            )
        return cls.__environment__

    @property
    def is_pending(self) -> bool:
        """Whether the device waits to be confirmed, or did so for too long."""
        return not self.confirmed and self.last_used_at is None

    @property
    def pending_expired(self) -> bool:
        """Whether the device was not confirmed in time, and so is as good as none."""
        made_at, max_age = self.created_at, self.pending_max_age
        if not self.is_pending or max_age is None or made_at is None:
            return False
        return clock.now() - made_at >= timedelta(seconds=max_age)

    # The contract.

    @classmethod
    def missing_setting(cls) -> str | None:
        """What a kind lacks to do its part as the host has set it up, in one sentence; or None.

        OTP warns of it when it is made, and forms do not offer such devices.
        """
        return None

    def is_interactive(self) -> bool:
        """Whether this device has a challenge to give."""
        return type(self).prepare_challenge is not DeviceMixin.prepare_challenge

    def accepts(self, token: str) -> bool:
        """Whether a token of this device can look like `token`; `match_token` asks no other."""
        return True

    async def check_token(self, token: str) -> bool:
        """A kind's own check of what the user typed; it may change the row. No policy in here."""
        return False

    def is_replay(self, token: str) -> bool:
        """Whether a token that was refused would be right, had it not been accepted before.

        Asked after `check_token` has said no, for the log and the signal alone.
        """
        return False

    def spend_with(self, twin: DeviceMixin) -> None:
        """A kind's own: refuse from now on what `twin` refuses as accepted before.

        Called on locked rows. `twin` is of the same kind and user and has the same secret, as of
        an enrolment that was sent twice: what is accepted by one of them is spent for both.
        """

    async def prepare_challenge(self, **context: Any) -> str | None:
        """An interactive kind's own: make the challenge under the lock, return the message."""
        return None

    async def deliver(self, *args: Any, **context: Any) -> None:
        """An interactive kind's own: hand the challenge over, after the commit, nothing locked."""

    def retract_challenge(self, failed: DeviceMixin) -> None:
        """An interactive kind's own: undo the challenge that could not be delivered.

        Called on the row as it is now, locked again; `failed` is the instance that was not
        delivered. A newer challenge stays.
        """

    @property
    def delivery(self) -> dict[str, Any]:
        """What `deliver` will be called with: the context, and what `prepare_challenge` adds."""
        context: dict[str, Any] = self.__dict__.setdefault("_delivery", {})
        return context

    @property
    def asking_browser(self) -> str | None:
        """What tells the browser that asks from others; None in a call without a request.

        Set for the one attempt or challenge, never stored.
        """
        known: str | None = self.__dict__.get("_asking_browser")
        return known

    @asking_browser.setter
    def asking_browser(self, browser: str | None) -> None:
        self.__dict__["_asking_browser"] = browser

    async def generate_is_allowed(self) -> Permission:
        """Whether a challenge may be made now: `(True, None)` or `(False, evidence)`."""
        if isinstance(self, CooldownMixin):
            # Also when a kind names the mixin after its device class.
            return await CooldownMixin.generate_is_allowed(self)
        return await ThrottlingMixin.verify_is_allowed(self)

    async def verify_is_allowed(self) -> Permission:
        """Whether a token may be tried now: `(True, None)` or `(False, evidence)`.

        An unconfirmed device verifies nothing, so that a stolen password can't enrol its own.
        """
        if not self.confirmed:
            return False, {"error_message": "This device is not confirmed yet."}
        return await super().verify_is_allowed()

    async def verify_token(self, token: str) -> bool:
        """Try a token: is it allowed, does the kind accept it; then reset and stamp, or count.

        Call it on a device loaded `for_verify` in a session, and commit whatever the answer is.
        An accepted token is never accepted again (RFC 6238 section 5.2). A device that may not
        verify now answers False and counts nothing. Of other devices with the same secret only OTP
        knows, which spends a token for them, too.
        """
        allowed, _ = await self.verify_is_allowed()
        if not allowed:
            return False
        accepted = await self.check_token(token)
        self.record(accepted)
        return accepted

    def record(self, accepted: bool) -> None:
        """Write an answer into the row: the reset and the time stamp, or one more failure."""
        if accepted:
            self.throttle_reset()
            self.set_last_used_timestamp()
            if isinstance(self, CooldownMixin):
                self.challenge_answered()
        else:
            self.throttle_increment()

    def reset(self) -> None:
        """Let the device verify again at once, whatever kept it from that; the caller commits."""
        self.throttle_reset()

    async def generate_challenge(self, **context: Any) -> str | None:
        """Prepare a challenge if that is allowed; delivering it is OTP's, after the commit.

        Returns:
            The message for the user; None from a passive device or when it is not allowed.
        """
        if not self.is_interactive():
            return None
        allowed, _ = await self.generate_is_allowed()
        if not allowed:
            return None
        self.delivery.update(context)
        message = await self.prepare_challenge(**context)
        if message is not None and isinstance(self, CooldownMixin):
            self.cooldown_set()
        return message
