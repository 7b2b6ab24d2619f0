"""What a client submitted: forms and JSON objects, read with care."""

from __future__ import annotations

import json
from typing import Any

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header
from starlette.datastructures import FormData, ImmutableMultiDict
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import Message, Receive

MAX_BODY = 64 * 1024
"""Bytes of a submitted form."""
_CHARSETS = (b"utf-8", b"utf8", b"us-ascii", b"ascii")


async def submitted(request: Request) -> Any:
    """The fields that were submitted; None for a request without a body.

    Raises:
        HTTPException: 400 for a body that does not parse, a JSON body that is no object of
            texts, or a file for a field.
    """
    if request.method not in ("POST", "PUT", "PATCH", "DELETE"):
        return None
    content_type, _ = parse_options_header(request.headers.get("content-type"))
    data: FormData | ImmutableMultiDict[str, Any]
    if content_type == b"application/json":
        data = await _json_object(request)
    elif not is_utf8(request):
        raise HTTPException(400, "The body has to be UTF-8.")
    else:
        try:
            data = await request.form(max_files=10, max_fields=50, max_part_size=MAX_BODY)
        except FormParserError:  # of which Starlette 1.6 makes no answer
            raise HTTPException(400, "Invalid multipart data.") from None
    for name, secret_or_text in data.multi_items():
        if not is_text(secret_or_text):
            await request.close()
            raise HTTPException(400, f"The field {name[:64]!r} has to be a text.")
    return data


def replay(body: bytes, then: Receive | None = None) -> Receive:
    """A channel that gives a body that was read already, and then what comes after it."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Message:
        if messages:
            return messages.pop()
        return await then() if then is not None else {"type": "http.disconnect"}

    return receive


def is_utf8(request: Request) -> bool:
    """Whether a body may be parsed as a form.

    Starlette decodes it with any codec that the client names, and some of those take minutes,
    fail, or make text that can't be encoded again.
    """
    _, options = parse_options_header(request.headers.get("content-type"))
    return options.get(b"charset", b"utf-8").lower() in _CHARSETS


def is_text(secret_or_text: object) -> bool:
    """Whether it can be shown again: no file or number, and no lone surrogate inside."""
    if not isinstance(secret_or_text, str):
        return False
    return secret_or_text.encode(errors="ignore").decode() == secret_or_text


async def _json_object(request: Request) -> ImmutableMultiDict[str, Any]:
    secret_body = b""
    async for secret_chunk in request.stream():
        secret_body += secret_chunk
        if len(secret_body) > MAX_BODY:
            raise HTTPException(413, "The body is too large.")
    try:
        body = json.loads(secret_body)
    except (ValueError, RecursionError):
        raise HTTPException(400, "The body is not JSON.") from None
    if not isinstance(body, dict):
        raise HTTPException(400, "The body has to be a JSON object.")
    return ImmutableMultiDict(body)
