"""What the JSON routes take and answer, as pydantic models."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

State = Literal[
    "anonymous",
    "token_required",
    "challenge_sent",
    "enrolment_required",
    "authenticated",
    "verified",
]


class Body(BaseModel):
    """A JSON object; what it has besides is ignored."""

    model_config = ConfigDict(extra="ignore", strict=True)


class SignIn(Body):
    """Name and password; the token, too, for a log-in in one step."""

    username: str
    password: str = Field(repr=False)
    token: str | None = Field(None, repr=False)
    device: str | None = Field(None, description="Which device the token is of; else any.")
    trust: bool = Field(False, description="Trust this browser, once the token was accepted.")


class ChallengeWanted(Body):
    """Which device is to send a code."""

    device: str
    login: str | None = Field(None, repr=False, description="Of a log-in that waits for its token.")


class Token(Body):
    """The token of a device."""

    token: str = Field(repr=False)
    device: str | None = Field(None, description="Which device it is of; else any.")
    login: str | None = Field(None, repr=False, description="Of a log-in that waits for its token.")
    trust: bool = Field(False, description="Trust this browser, once the token was accepted.")


class NewDevice(Body):
    """A kind of device, a name for it, and what the kind asks for."""

    model_config = ConfigDict(extra="allow", strict=True)

    kind: str
    name: str = ""


class Confirmation(Body):
    """The first token of a new device."""

    token: str = Field(repr=False)
    name: str | None = None


class NewName(Body):
    """Another name for a device."""

    name: str


class NewPassword(Body):
    """A new password; that of now, too, where no device has verified the session."""

    password: str = Field(repr=False)
    current_password: str | None = Field(None, repr=False)


class DeviceChoice(BaseModel):
    """A device that could be asked."""

    id: str
    kind: str
    name: str = Field(description="Its owner's name for it.")
    label: str = Field(description="What it is, told from the others.")
    interactive: bool = Field(description="Whether it sends a code.")
    locked_until: datetime | None


class Device(DeviceChoice):
    """A device of the user's."""

    confirmed: bool
    created_at: datetime
    last_used_at: datetime | None


class User(BaseModel):
    """Who is signed in."""

    id: int | str
    name: str


class Challenge(BaseModel):
    """A code that was sent."""

    message: str
    expires_at: datetime | None
    next_at: datetime | None = Field(description="When the next can be asked for.")


class Session(BaseModel):
    """Who is signed in, and what may come next."""

    state: State
    login: str | None = Field(
        repr=False, description="Stands for the password until the token follows."
    )
    devices: list[DeviceChoice] = Field(description="Those that could be asked for a token.")
    challenge: Challenge | None
    user: User | None
    device: Device | None = Field(description="The one that verified the session.")
    verified_at: datetime | None
    expires_at: datetime | None
    max_age_left: int | None = Field(
        description="Seconds until a change of devices, password or sessions asks again."
    )
    trusted: bool = Field(description="Trust in this browser stands for a token.")
    amr: list[str]
    acr: str | None


class BearerSession(Session):
    """The same, with the token where the session has begun or was renewed."""

    access_token: str | None = Field(None, repr=False)
    token_type: Literal["bearer"] | None = None
    expires_in: int | None = Field(None, description="Seconds.")


class Devices(BaseModel):
    """The user's devices."""

    devices: list[Device]


class Setup(BaseModel):
    """What an authenticator app needs, shown this once."""

    secret: str = Field(repr=False, description="In base 32.")
    otpauth_url: str = Field(repr=False)
    qr_svg: str | None = Field(repr=False)


class Enrolment(BaseModel):
    """A device that waits for its first token."""

    device: Device
    setup: Setup | None
    challenge: Challenge | None
    expires_at: datetime | None


class Confirmed(BaseModel):
    """A device that counts now; recovery codes, where the user had none, shown this once."""

    device: Device
    session: Session
    recovery_codes: list[str] | None = Field(repr=False)


class BearerConfirmed(Confirmed):
    """The same, for bearers."""

    session: BearerSession


class RecoveryCodes(BaseModel):
    """How many recovery codes are left."""

    remaining: int
    created_at: datetime | None


class NewCodes(BaseModel):
    """Recovery codes in place of all earlier ones, shown this once."""

    codes: list[str] = Field(repr=False)


class SessionListed(BaseModel):
    """Where the user is signed in."""

    id: int
    current: bool
    user_agent: str
    created_at: datetime
    seen_at: datetime
    expires_at: datetime
    verified_at: datetime | None
    device: str | None = Field(description="The id of the device that verified it.")


class Sessions(BaseModel):
    """Where the user is signed in."""

    sessions: list[SessionListed]


class AgentListed(BaseModel):
    """A browser that the user trusts."""

    id: int
    current: bool
    name: str = Field(description="Browser and system.")
    trusted_at: datetime
    last_seen_at: datetime
    expires_at: datetime | None
    device: str | None = Field(description="The id of the device that vouched for it.")


class Agents(BaseModel):
    """The browsers that the user trusts."""

    agents: list[AgentListed]


class FieldError(BaseModel):
    """What is wrong with a field."""

    field: str
    code: str
    detail: str | None = None


class OTPProblem(BaseModel):
    """Why a request was refused (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    errors: list[FieldError] | None = None
    locked_until: datetime | None = None
    next_at: datetime | None = None
    retry_after: int | None = Field(None, description="Seconds.")
    max_age: float | None = Field(None, description="Seconds.")
    login: str | None = None
    devices: list[DeviceChoice] | None = None
