"""Devices: added, confirmed, renamed and removed by whose they are."""

from __future__ import annotations

from typing import Any

from sqlalchemy.exc import IntegrityError
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from starlette_otp.account import qr
from starlette_otp.account.base import AccountView, site_of, user_of
from starlette_otp.account.forms import MAX_NAME, ButtonForm, ConfirmForm, NameForm, add_form
from starlette_otp.account.pending import begun_here, is_from_here, is_waiting, note
from starlette_otp.account.recovery_codes import codes_left, show_new_codes
from starlette_otp.devices.hotp import HOTPDeviceMixin
from starlette_otp.devices.otpauth import OTPAuthMixin
from starlette_otp.devices.policies import CooldownMixin, VerificationFailure
from starlette_otp.devices.static import StaticDeviceMixin
from starlette_otp.devices.users import called
from starlette_otp.devices.words import plain_name, with_destination
from starlette_otp.exceptions import (
    DeviceRejected,
    LastDevice,
    SecretUnreadable,
    TooManyPending,
)
from starlette_otp.web.journal import client_of
from starlette_otp.web.login import verify_session
from starlette_otp.web.responses import HEADERS
from starlette_otp.web.urls import folder, way
from starlette_otp.web.verdict import verdict_of


def offered(device_model: Any) -> list[Any]:
    """The kinds of device that people may add themselves."""
    return [
        kind
        for kind in device_model.kinds().values()
        if kind.enrollable
        and kind.missing_setting() is None
        and (issubclass(kind, OTPAuthMixin) or kind.enrolment_fields)
    ]


class AddView(AccountView):
    """Begin a device: an unconfirmed row, the same one however often this browser comes back."""

    enrols = True

    async def get(self, request: Request) -> Response:
        """The kinds to choose from, what the kind asks for, or on to its confirmation."""
        kind = self._kind(request, request.query_params.get("kind"))
        if kind is None:
            kinds = offered(site_of(request).device_model)
            return self.render(request, "choose.html", kinds=kinds)
        there = await self._find(request, kind)
        if there is not None:
            return _to_confirm(request, there)
        if not kind.enrolment_fields:
            return await self._begin(request, kind, {}, request.query_params.get("name"))
        form = add_form(kind)(request)
        if "email" in form:
            form.email.data = getattr(user_of(request), "email", None) or ""
        return self.render(request, "add.html", form=form, kind=kind)

    async def post(self, request: Request) -> Response:
        """On to the confirmation, with a challenge where the kind has one."""
        given = await request.form()
        kind = self._kind(request, request.query_params.get("kind") or given.get("kind"))
        if kind is None:
            return self.gone(request, "no_kind")
        form = await add_form(kind).from_formdata(request)
        if not await form.validate_on_submit():
            return self.render(request, "add.html", form=form, kind=kind)
        try:
            return await self._begin(request, kind, form.values, given.get("name"))
        except ValueError as exc:
            # Of the kind's own columns: it says what it takes.
            for name in list(form.asked)[:1]:
                form.add_error("invalid", form[name], reason=str(exc))
            return self.render(request, "add.html", form=form, kind=kind)

    def _kind(self, request: Request, name: object) -> Any | None:
        kinds = offered(site_of(request).device_model)
        return next((kind for kind in kinds if kind.__kind__ == name), None)

    async def _find(self, request: Request, kind: Any) -> Any | None:
        """The device of that kind that this browser has begun last."""
        found = await site_of(request).enrolment.devices_for_user(user_of(request), False)
        mine = [d for d in found if type(d) is kind and is_waiting(d) and is_from_here(request, d)]
        return mine[-1] if mine else None

    async def _begin(
        self, request: Request, kind: Any, values: dict[str, str], name: object
    ) -> Response:
        device = kind(confirmed=False, name=_clean_name(name), **values)
        enrolment, unless = site_of(request).enrolment, begun_here(request, kind, values)
        try:
            added = await enrolment.add_device(user_of(request), device, unless)
        except TooManyPending:
            return self.gone(request, "too_many", 409)
        except IntegrityError:
            # The user has gone meanwhile.
            return self.gone(request)
        note(request, added)
        if added is not device or not added.is_interactive():
            return _to_confirm(request, added)
        form = ConfirmForm(request)
        await challenge(request, form, added)
        return show_confirm(self, request, form, added)


class DeviceView(AccountView):
    """A page of one device: of another user's, or of one that has gone, it says that it is gone."""

    async def device(self, request: Request) -> Any | None:
        """The device of the path, if it is the user's."""
        found = await site_of(request).enrolment.devices_for_user(user_of(request), None)
        return next((one for one in found if one.persistent_id == _id_of(request)), None)


class ConfirmView(DeviceView):
    """Confirm a device with its first token, which is spent by it."""

    enrols = True

    async def refusal(self, request: Request) -> Response | None:
        """On to the codes for the second of two clicks, of which the first has verified."""
        refusal = await super().refusal(request)
        if refusal is None or verdict_of(request).user is None or request.method != "POST":
            return refusal
        form, device = await ConfirmForm.from_formdata(request), await self.device(request)
        return await self._go_on(request) if self._is_repeated(request, form, device) else refusal

    async def get(self, request: Request) -> Response:
        """The key, or where the code was sent; and the field for it."""
        device = await self.device(request)
        answer = self._unless_waiting(request, device)
        return answer or show_confirm(self, request, ConfirmForm(request), device)

    async def post(self, request: Request) -> Response:
        """The next page after success; the form again after a wrong token."""
        device = await self.device(request)
        form = await ConfirmForm.from_formdata(request)
        if self._is_repeated(request, form, device):
            return await self._go_on(request)
        answer = self._unless_waiting(request, device)
        if answer is not None:
            return answer
        if not await form.validate_on_submit():
            return show_confirm(self, request, form, device)
        if form.otp_challenge.data:
            await challenge(request, form, device)
            return show_confirm(self, request, form, await self.device(request) or device)
        return await self._try(request, form, device)

    def _is_repeated(self, request: Request, form: ConfirmForm, device: Any | None) -> bool:
        is_repeated = site_of(request).verification.is_repeated
        return (
            device is not None
            and device.confirmed
            and is_repeated(device, form.otp_token.data or "", form.browser)
        )

    def _unless_waiting(self, request: Request, device: Any | None) -> Response | None:
        """What there is to say of a device that does not wait for a token."""
        if device is None or isinstance(device, StaticDeviceMixin):
            return self.gone(request)
        if device.confirmed:
            return self.gone(request, "confirmed", 200)
        if device.pending_expired:
            return self.gone(request, "expired", 410)
        return None if device.is_pending else self.gone(request)

    async def _try(self, request: Request, form: Any, device: Any) -> Response:
        otp, client = site_of(request), client_of(site_of(request), request)
        attempt = await otp.verification.attempt(
            user_of(request),
            form.otp_token.data,
            device.persistent_id,
            confirming=True,
            as_first=verdict_of(request).device is None,
            browser=form.browser,
            asking_browser=form.asking_browser,
            address=client.address,
            agent=client.agent,
        )
        if attempt.is_repeated:
            return await self._go_on(request)
        if attempt.reason is VerificationFailure.NO_DEVICE:
            answer = self._unless_waiting(request, await self.device(request))
            # Another one was confirmed first, elsewhere: this one wants a verification by that.
            return answer or await self.judge(request) or self.gone(request)
        if attempt.device is None:
            form.refuse(attempt)
            return show_confirm(self, request, form, device)
        if form.name.data:
            await otp.enrolment.rename_device(
                user_of(request), device.persistent_id, form.name.data
            )
        return await self._confirmed(request, attempt.device)

    async def _confirmed(self, request: Request, device: Any) -> Response:
        """The recovery codes if there are none; the first device verifies the session, too."""
        if verdict_of(request).device is None:
            try:
                await verify_session(request, device, is_first=True)
            except DeviceRejected:
                # Removed, or signed out, in another browser meanwhile.
                return self.finish(request, "added")
        if await codes_left(request) == 0:
            return await show_new_codes(self, request, is_first=True)
        return self.finish(request, "added")

    async def _go_on(self, request: Request) -> Response:
        """Where the second of two clicks leads, whose first one's answer nobody has seen."""
        if await codes_left(request) == 0:
            return RedirectResponse(f"{folder(request)}/recovery-codes{way(request)}", 303, HEADERS)
        return self.finish(request, "added")


class RenameView(DeviceView):
    """Give a device another name."""

    async def get(self, request: Request) -> Response:
        """The form with the name of now."""
        device = await self.device(request)
        if device is None:
            return self.gone(request)
        form = NameForm(request, data={"name": device.name})
        return self.render(request, "rename.html", form=form, device=device)

    async def post(self, request: Request) -> Response:
        """303 after success, else the form again."""
        device = await self.device(request)
        if device is None:
            return self.gone(request)
        form = await NameForm.from_formdata(request)
        if await form.validate_on_submit():
            name, enrolment = form.name.data or "", site_of(request).enrolment
            try:
                found = await enrolment.rename_device(user_of(request), _id_of(request), name)
            except ValueError as exc:
                form.add_error("invalid_name", form.name, reason=str(exc))
            else:
                return self.finish(request, "renamed") if found else self.gone(request)
        return self.render(request, "rename.html", form=form, device=device)


class RemoveView(DeviceView):
    """Take a device away, or give up one that is not confirmed yet."""

    enrols = True

    async def get(self, request: Request) -> Response:
        """The question, with what it means."""
        return await self._ask(request, ButtonForm(request))

    async def post(self, request: Request) -> Response:
        """303 after success."""
        form = await ButtonForm.from_formdata(request)
        if not await form.validate_on_submit():
            return await self._ask(request, form)
        otp, user = site_of(request), user_of(request)
        keeps_one = await otp.requirement.is_due(user)
        try:
            client = client_of(otp, request)
            removed = await otp.enrolment.remove_device(
                user, _id_of(request), keeps_one, client.address, client.agent
            )
        except LastDevice:
            return await self._ask(request, form)
        if removed is None:
            return self.gone(request)
        return self.finish(request, "removed" if removed.confirmed else "cancelled")

    async def _ask(self, request: Request, form: ButtonForm) -> Response:
        otp, user = site_of(request), user_of(request)
        found = await otp.enrolment.devices_for_user(user, None)
        device = next((one for one in found if one.persistent_id == _id_of(request)), None)
        if device is None:
            return self.gone(request)
        others = [one for one in found if one.confirmed and one is not device]
        full = [one for one in others if not one.is_spare]
        is_last = device.confirmed and not device.is_spare and not full
        context: dict[str, Any] = {
            "form": form,
            "device": device,
            "is_codes": isinstance(device, StaticDeviceMixin),
            "others": full,
            "has_to_stay": is_last and await otp.requirement.is_due(user),
            "left": await codes_left(request) if others else 0,
            "is_used_here": device == verdict_of(request).device,
        }
        return self.render(request, "remove.html", **context)


async def challenge(request: Request, form: ConfirmForm, device: Any) -> None:
    """Give the challenge of a device that is to be confirmed; the form's `info` tells of it."""
    user = user_of(request)
    message = await form.challenge(user, device.persistent_id, confirming=True)
    if message is not None:
        form.was_sent = True
        # The page says itself where it went.
        is_known = message == with_destination(
            getattr(device, "challenge_message", ""), device, user
        )
        form.info = None if is_known else message


def show_confirm(view: AccountView, request: Request, form: ConfirmForm, device: Any) -> Response:
    """The page that asks for a device's first token."""
    user = user_of(request)
    context: dict[str, Any] = {"form": form, "device": device, "max_name": MAX_NAME}
    if not form.is_submitted() and not form.name.data:
        form.name.data = device.name
    if isinstance(device, OTPAuthMixin) and device.enrollable and is_from_here(request, device):
        # A QR code holds some 2,000 characters, and each of a name may take twelve.
        account = called(user)[:64]
        app: Any = device
        try:
            url, key = app.config_url(account), qr.grouped(app.secret)
        except SecretUnreadable:
            return view.gone(request, "expired", 410)
        issuer = device.issuer_name
        context |= {"qr": qr.svg(url), "url": url, "key": key, "issuer": issuer}
        context["account_name"] = account
        context["counts"] = isinstance(device, HOTPDeviceMixin)
    if isinstance(device, CooldownMixin):
        context["destination"] = device.challenge_destination(user)
        context["was_sent"] = form.was_sent or device.last_generated_timestamp is not None
    context["is_interactive"] = device.is_interactive()
    return view.render(request, "confirm.html", **context)


def _to_confirm(request: Request, device: Any) -> Response:
    url = f"{folder(request)}/devices/{device.persistent_id}/confirm{way(request)}"
    return RedirectResponse(url, 303, HEADERS)


def _id_of(request: Request) -> str:
    return f"{request.path_params['kind']}/{request.path_params['id']}"


def _clean_name(name: object) -> str:
    """A name that came along, if it can be one."""
    return ((plain_name(name) if isinstance(name, str) else None) or "")[:MAX_NAME]
