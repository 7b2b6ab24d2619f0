"""Tokens by mail."""

from __future__ import annotations

import re
from email.message import EmailMessage
from email.utils import format_datetime, make_msgid
from typing import Any, ClassVar

import idna
from jinja2 import Template
from sqlalchemy import String
from sqlalchemy.orm import Mapped, mapped_column, validates

from starlette_otp import clock
from starlette_otp.devices.side_channel import SideChannelDeviceMixin
from starlette_otp.devices.words import masked
from starlette_otp.exceptions import ConfigurationError
from starlette_otp.mailer import Mailer

# One addr-spec and nothing that could make a second recipient or a second header of it.
# `=?` begins an encoded word, which the header would decode: to a comma, say.
_ADDRESS = re.compile(
    r"(?!.*=\?)[^\s@,;:<>()\[\]\\\"]+@[^\s@,;:<>()\[\]\\\".]+(\.[^\s@,;:<>()\[\]\\\".]+)*"
)
_MAX_ADDRESS = 254


class EmailDeviceMixin(SideChannelDeviceMixin):
    """A device that mails its tokens, to its own address or else to the user's."""

    __kind__ = "email"
    kind_name = "Email"
    code_prompt = "Enter the code that we email you"
    enrolment_fields = ("email",)

    mailer: ClassVar[Mailer | None] = None
    sender: ClassVar[str | None] = None
    """The From; unless set, the mailer's."""
    subject: ClassVar[str] = "Your code"
    """Takes `{token}`."""
    body_template: ClassVar[str | None] = None
    """A Jinja template as text; it wins over the path."""
    body_html_template: ClassVar[str | None] = None
    body_template_path: ClassVar[str] = "otp/email/token.txt"
    body_html_template_path: ClassVar[str | None] = None
    challenge_message: ClassVar[str] = "We sent a code to {destination}."

    email: Mapped[str | None] = mapped_column(String(_MAX_ADDRESS), use_existing_column=True)

    @validates("email")
    def _validate_email(self, name: str, value: str | None) -> str | None:
        return check_address(value) if value else None

    @classmethod
    def missing_setting(cls) -> str | None:
        """What these devices lack to mail anything, in one sentence; or None."""
        if cls.mailer is None:
            return f"{cls.__name__} has no mailer."
        composes = cls.compose is EmailDeviceMixin.compose
        return f"{cls.__name__} has no sender." if composes and not cls._sender() else None

    def challenge_destination(self, user: object) -> str | None:
        """The address, or None where there is none to mail to."""
        try:
            address = check_address(self.email or getattr(user, "email", None))
        except ValueError:
            return None
        return with_a_labels(address).casefold()

    def shown_destination(self, user: object) -> str:
        """The address as it is written, masked; or nothing."""
        return masked(self.email or getattr(user, "email", None))

    def shown_name(self, user: object) -> str:
        """The kind and the address."""
        where = self.shown_destination(user)
        return f"{self.kind_name} to {where}" if where else super().shown_name(user)

    async def prepare_challenge(self, **context: Any) -> str:
        """Make a new token; who can't send gets none."""
        self._working_mailer()
        return await super().prepare_challenge(**context)

    async def deliver(self, token: str, **context: Any) -> None:
        """Mail the token; `context` reaches the templates, with `user` and `device` in it."""
        await self._working_mailer().send(self.compose(token, **context))

    @classmethod
    def _sender(cls) -> str | None:
        return cls.sender or getattr(cls.mailer, "sender", None)

    def _working_mailer(self) -> Mailer:
        if self.mailer is None:
            raise ConfigurationError(f"{type(self).__name__} has no mailer.")
        return self.mailer

    def compose(self, token: str, **context: Any) -> EmailMessage:
        """The message with the token; its addresses have A-labels for domains (RFC 5891).

        Raises:
            ValueError: there is no address, or not exactly one.
            ConfigurationError: there is no sender.
        """
        sender = self._sender()
        if not sender:
            raise ConfigurationError(f"{type(self).__name__} has no sender.")
        recipient = check_address(self.email or getattr(context.get("user"), "email", None))
        context = {
            "token": token,
            "device": self,
            "validity": clock.lasting(self.token_validity),
            **context,
        }
        subject = self.subject.format(token=token)
        message = new_message(sender, recipient, subject, self._text().render(context))
        if self.body_html_template is not None or self.body_html_template_path is not None:
            message.add_alternative(self._html().render(context), subtype="html")
        return message

    def _text(self) -> Template:
        # Not escaped, whatever the environment does: O'Brien is no O&#39;Brien in a mail.
        env = self.environment().overlay(autoescape=False)
        if self.body_template is not None:
            return env.from_string(self.body_template)
        return env.get_template(self.body_template_path)

    def _html(self) -> Template:
        env = self.environment().overlay(autoescape=True)
        if self.body_html_template is not None:
            return env.from_string(self.body_html_template)
        return env.get_template(self.body_html_template_path or "")


def new_message(sender: str, recipient: str, subject: str, text: str) -> EmailMessage:
    """A message of text, dated now; its addresses have A-labels for domains (RFC 5891)."""
    sender = with_a_labels(sender)
    message = EmailMessage()
    message["From"] = sender
    message["To"] = with_a_labels(recipient)
    message["Subject"] = subject
    message["Date"] = format_datetime(clock.now())
    message["Message-ID"] = make_msgid(domain=sender.rpartition("@")[2].strip(">") or None)
    message.set_content(text)
    return message


def check_address(address: object) -> str:
    """`address` if it is exactly one mail address.

    Raises:
        ValueError: it is none, or several, or longer than 254 characters (RFC 5321), or its domain
            can't be one.
    """
    if not isinstance(address, str) or len(address) > _MAX_ADDRESS:
        raise ValueError("There has to be exactly one mail address.")
    if not address.isprintable() or not _ADDRESS.fullmatch(address):
        raise ValueError("There has to be exactly one mail address.")
    try:
        with_a_labels(address)
    except ValueError:
        raise ValueError("There has to be exactly one mail address.") from None
    return address


def with_a_labels(address: str) -> str:
    """The address, with a name before it or without, as servers without SMTPUTF8 take it.

    By IDNA 2008: that of 2003, which Python's own codec does, makes another's domain of some.

    Raises:
        ValueError: the domain can't be one.
    """
    name, at, domain = address.rpartition("@")
    bare = domain.rstrip("> ")
    if bare.isascii():
        return address
    return name + at + idna.encode(bare, uts46=True).decode() + domain[len(bare) :]
