"""The form that gives a user a device."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from sqlalchemy import ColumnElement, and_
from wtforms import BooleanField, HiddenField, SelectField, StringField

from starlette_otp.admin.people import People
from starlette_otp.devices.email import EmailDeviceMixin, check_address
from starlette_otp.devices.owner import convert_key, is_clean_text, table_of
from starlette_otp.web.base_form import BaseForm

_MAX_NAME = 64


class AddDeviceForm(BaseForm):
    """Whose, and what it is called; an address for a device that mails its tokens.

    The user is typed: a key, a username or an address. The beginning of a username offers those
    who are meant, so that no page ever has to list all users.
    """

    error_messages: ClassVar[Mapping[str, str]] = {
        "user_required": "Please say whose device it is.",
        "unknown_user": "There is no such user.",
        "several_users": "Please choose who is meant.",
        "bad_name": "A name has up to 64 characters.",
        "bad_address": "Please enter one mail address.",
    }

    user = StringField("User")
    choice = SelectField("Who is meant", choices=[], validate_choice=False)
    name = StringField("Name")
    email = StringField("Email")
    confirmed = BooleanField("Confirmed", default=True)
    newest = HiddenField()
    """The id of the newest device of all when the form was opened."""

    owner: Any = None
    """The user, once the form is valid."""

    def bind(self, people: People, model: type[Any]) -> None:
        """Say for which kind of device the form is."""
        self._people, self._model = people, model
        self.takes_email = issubclass(model, EmailDeviceMixin)

    async def validate(self, extra_validators: Any = None) -> bool:
        """Whether there is one such user, and the rest fits the columns."""
        if not await super().validate(extra_validators):
            return False
        name = (self.name.data or "").strip()
        if len(name) > _MAX_NAME or not is_clean_text(name):
            self.add_error("bad_name", self.name)
        if self.takes_email and self.email.data:
            try:
                check_address(self.email.data)
            except ValueError:
                self.add_error("bad_address", self.email)
        await self._find_owner()
        return self.owner is not None and not self.error_codes

    async def _find_owner(self) -> None:
        term = (self.user.data or "").strip()
        if not term:
            self.add_error("user_required", self.user)
            return
        found = await self._people.find(self._request, term)
        chosen = [user for user in found if str(self._key(user)) == self.choice.data]
        # A choice that does not go with what is typed now was made for something else.
        exact = chosen or [user for user in found if self._is_spelled(user, term)]
        if len(exact) == 1:
            self.owner = exact[0]
        elif found:
            keys = [str(self._key(user)) for user in found]
            labels = [f"{self._people.label(user)} ({self._key(user)})" for user in found]
            self.choice.choices = list(zip(keys, labels, strict=True))
            self.add_error("several_users", self.choice)
        else:
            self.add_error("unknown_user", self.user)

    def _is_spelled(self, user: Any, term: str) -> bool:
        names = (str(getattr(user, name, "")).lower() for name in ("username", "email"))
        return term.lower() in (str(self._key(user)).lower(), *names)

    def _key(self, user: Any) -> Any:
        return self.otp.device_model.user_key(user)

    def values(self) -> dict[str, Any]:
        """What the new device starts with."""
        given = {"name": (self.name.data or "").strip(), "confirmed": self.confirmed.data}
        return {**given, "email": self.email.data or None} if self.takes_email else given

    def sent_before(self) -> ColumnElement[bool] | None:
        """The device that this form has made already, if it is sent again: a page reloaded."""
        newest = convert_key(self.newest.data or "", table_of(self._model).c.id)
        if newest is None:
            return None
        given = {name: value for name, value in self.values().items() if name != "confirmed"}
        same = (getattr(self._model, name) == value for name, value in given.items())
        return and_(self._model.id > newest, *same)
