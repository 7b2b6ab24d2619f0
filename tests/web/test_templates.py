"""Templates: the host's first, escaped, under a strict policy, and good for a screen reader."""

import re
from collections import Counter
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from jinja2 import DictLoader, Environment
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.routing import Mount, Route
from starlette.templating import Jinja2Templates

from starlette_otp import OTP
from starlette_otp.models import Device, User
from tests.support import (
    SECRET_KEY,
    Browser,
    CodesView,
    OnePageView,
    Sessions,
    make_app,
    make_static,
    make_totp,
    totp_token,
)

LOGIN, LOGOUT = "/account/login", "/account/logout"
EVIL = "<script>alert(1)</script>\"'"
VOID = {"input", "link", "meta"}


class Page(HTMLParser):
    """A page's elements with their attributes, and whether they are nested as they should be."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        assert len(attrs) == len(dict(attrs)), (tag, attrs)
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, *tags: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.elements if tag in tags]

    def field(self, name: str) -> dict[str, str | None]:
        [found] = [f for f in self.all("input", "select") if f.get("name") == name]
        return found


@pytest.fixture
async def pages(otp: OTP, browser: Browser, sessions: Sessions, alice: User) -> list[Page]:
    """Every page there is, with errors and without."""
    device = await make_totp(sessions, alice, name=EVIL)
    await make_static(sessions, alice, None)
    async with Browser(make_app(otp, login_view=OnePageView)) as other:
        one_page = await other.get(LOGIN)
    answers = [
        one_page,
        await browser.get(LOGIN),
        await browser.log_in(otp_way=device.persistent_id),
        await browser.log_in(username="", password=""),
        await browser.log_in(username=EVIL, otp_device=EVIL, token=EVIL),
        await browser.log_in(otp_challenge="1"),
        await browser.submit(LOGIN, username="alice"),
        await browser.submit(LOGIN, username="alice", otp_token=totp_token()),
        await browser.get(f"{LOGIN}?reverify=1"),
        await browser.submit(f"{LOGIN}?reverify=1", otp_token="000000"),
        await browser.post(LOGOUT),
    ]
    return [Page(answer.text) for answer in answers if answer.status_code != 303]


def host_otp(sessions: Sessions, templates: Any) -> OTP:
    return OTP(sessions, Device, secret_key=SECRET_KEY, templates=templates)


async def login_page(sessions: Sessions, templates: Any) -> str:
    async with Browser(make_app(host_otp(sessions, templates))) as browser:
        answer = await browser.get(LOGIN)
        assert answer.status_code == 200
        text: str = answer.text
        return text


def write(folder: Path, **templates: str) -> Path:
    (folder / "otp").mkdir(parents=True)
    for name, text in templates.items():
        (folder / "otp" / f"{name}.html").write_text(text)
    return folder


# For people.


def test_every_field_has_its_label(pages: list[Page]) -> None:
    """Each field that people fill in has a label of its own, and every id is there once."""
    for page in pages:
        ids = Counter(a["id"] for _, a in page.elements if "id" in a)
        assert set(ids.values()) <= {1}
        labels = Counter(label["for"] for label in page.all("label"))
        for field in page.all("input", "select"):
            if field.get("type") not in ("hidden", "submit"):
                assert labels[field["id"]] == 1, field


def test_errors_are_tied_to_their_fields(pages: list[Page]) -> None:
    """`aria-describedby` names elements that exist, and a wrong field says that it is."""
    described = invalid = 0
    for page in pages:
        ids = {attributes.get("id") for _, attributes in page.elements}
        for field in page.all("input", "select"):
            names = str(field.get("aria-describedby", "")).split()
            assert set(names) <= ids
            described += len(names)
            if field.get("aria-invalid"):
                assert f"{field['id']}-error" in names
                invalid += 1
    assert described > invalid >= 3


def test_fields_help_the_browser(pages: list[Page]) -> None:
    """Password managers, phones and one-time codes find their fields."""
    first, last = pages[0], pages[-2]
    assert first.field("username")["autocomplete"] == "username"
    assert first.field("password")["autocomplete"] == "current-password"
    for page in (first, last):
        token = page.field("otp_token")
        assert (token["autocomplete"], token["inputmode"]) == ("one-time-code", "numeric")


def test_one_field_at_most_takes_the_focus(pages: list[Page]) -> None:
    """The cursor waits in one field, which can be typed in; nothing but the name is read-only."""
    for page in pages:
        focused = [f for f in page.all("input", "select") if "autofocus" in f]
        assert len(focused) <= 1
        assert all("readonly" not in f for f in focused)
    assert "readonly" not in pages[0].field("username")


def test_every_page_says_what_it_is(pages: list[Page]) -> None:
    """A page has a language, a title, one heading, and fits a phone."""
    for page in pages:
        assert page.all("html") == [{"lang": "en"}]
        assert len(page.all("title")) == len(page.all("h1")) == len(page.all("main")) == 1
        assert "width=device-width, initial-scale=1" in [m.get("content") for m in page.all("meta")]


# Against attacks.


def test_a_strict_policy_holds(pages: list[Page]) -> None:
    """No inline script, no inline style, nothing from elsewhere: a strict policy breaks nothing."""
    for page in pages:
        for tag, attributes in page.elements:
            assert tag not in ("script", "style", "iframe", "img", "base")
            assert not [name for name in attributes if name == "style" or name.startswith("on")]
            links = [attributes.get(name) or "" for name in ("href", "src", "action")]
            assert not [link for link in links if ":" in link or link.startswith("//")]


def test_what_people_named_is_escaped(pages: list[Page]) -> None:
    """A device or a name of `<script>` is shown as text (the parser would have met a tag)."""
    assert [page for page in pages if f"Authenticator app · {EVIL}" in page.text]
    assert [page for page in pages if EVIL in [i.get("value") for i in page.all("input")]]
    assert not [page for page in pages if page.all("script")]


@pytest.mark.parametrize("autoescape", [False, True, lambda name: False])
async def test_a_hosts_environment_does_not_switch_escaping_off(
    sessions: Sessions, autoescape: Any
) -> None:
    """Jinja's default environment escapes nothing: our pages are escaped all the same."""
    page = '{% extends "starlette_otp/otp/login.html" %}{% block heading %}{{ evil }}{% endblock %}'
    env = Environment(loader=DictLoader({"otp/login.html": page}), autoescape=autoescape)
    env.globals["evil"] = EVIL
    text = await login_page(sessions, Jinja2Templates(env=env))
    assert "<h1>&lt;script&gt;" in text
    assert '<input id="csrf_token"' in text


# The host's own.


async def test_the_hosts_template_wins(sessions: Sessions, tmp_path: Path) -> None:
    """A template of the same name in the host's folder takes the place of ours, others stay."""
    folder = write(tmp_path, login="mine {{ form.csrf_token }}")
    otp = host_otp(sessions, folder)
    async with Browser(make_app(otp)) as browser:
        assert (await browser.get(LOGIN)).text.startswith("mine <input")
        assert "<h1>Log out</h1>" in (await browser.post(LOGOUT)).text


@pytest.mark.parametrize("as_text", [False, True])
async def test_of_several_folders_the_first_wins(
    sessions: Sessions, tmp_path: Path, as_text: bool
) -> None:
    """Several folders are looked into in their order."""
    folders: Sequence[Path] = [
        write(tmp_path / "one", login="one"),
        write(tmp_path / "two", login="two", logout="two"),
    ]
    otp = host_otp(sessions, [str(f) for f in folders] if as_text else folders)
    async with Browser(make_app(otp)) as browser:
        assert (await browser.get(LOGIN)).text == "one"
        assert (await browser.post(LOGOUT)).text == "two"


async def test_an_override_extends_the_original(sessions: Sessions, tmp_path: Path) -> None:
    """An override changes a block and keeps the rest, and one base.html frames every page."""
    write(
        tmp_path,
        login='{% extends "starlette_otp/otp/login.html" %}{% block heading %}Hi{% endblock %}',
        base='{% extends "starlette_otp/otp/base.html" %}'
        "{% block body %}<nav>mine</nav>{{ super() }}{% endblock %}",
    )
    text = await login_page(sessions, tmp_path)
    assert "<h1>Hi</h1>" in text
    assert "<nav>mine</nav>" in text
    assert Page(text).field("csrf_token")["value"]


@pytest.mark.parametrize("path", ["", "/inner"])
@pytest.mark.parametrize("host", [Path, Jinja2Templates])
@pytest.mark.parametrize("behind", [True, False])
async def test_a_page_of_the_hosts_extends_our_frame(
    sessions: Sessions, tmp_path: Path, path: str, host: Any, behind: bool
) -> None:
    """A host's own page extends `otp/base.html`, wherever it is mounted and whether OTPMiddleware
    has seen the request or not; the stylesheet is linked where it is."""
    text = (
        '{% extends "otp/base.html" %}{% block content %}mine {{ otp_urls.logout }}{% endblock %}'
    )
    (tmp_path / "mine.html").write_text(text)
    otp = host_otp(sessions, host(tmp_path))

    async def mine(request: Request) -> Any:
        return otp.templates.TemplateResponse(request, "mine.html")

    route = Route("/mine", mine)
    app: Any = make_app(otp, route) if behind else Starlette(routes=[route])
    async with Browser(Starlette(routes=[Mount(path, app)]) if path else app) as browser:
        answer = await browser.get(f"{path}/mine")
        assert f'href="{path}/account/static/otp.css"' in answer.text
        assert f"mine {path}/account/logout" in answer.text


async def test_a_hosts_jinja_keeps_what_it_has(sessions: Sessions, tmp_path: Path) -> None:
    """A Jinja2Templates brings its globals, filters and context processors, and stays as it was."""
    page = (
        '{% extends "starlette_otp/otp/login.html" %}{% block heading %}'
        "{{ brand | shout }} {{ path }} {{ url_for('otp:login') }}{% endblock %}"
    )
    write(tmp_path, login=page)

    def processor(request: Request) -> dict[str, Any]:
        return {"path": request.url.path}

    templates = Jinja2Templates(tmp_path, context_processors=[processor])
    templates.env.globals["brand"] = "acme"
    templates.env.filters["shout"] = str.upper
    loader = templates.env.loader
    text = await login_page(sessions, templates)
    assert f"<h1>ACME {LOGIN} http://site.example{LOGIN}</h1>" in text
    assert templates.env.loader is loader


async def test_a_view_names_its_template(sessions: Sessions, alice: User, tmp_path: Path) -> None:
    """`template_name` of a subclass is looked for in the host's folder."""

    class View(CodesView):
        template_name = "door.html"

    (tmp_path / "door.html").write_text("door {{ stage }}")
    async with Browser(make_app(host_otp(sessions, tmp_path), login_view=View)) as browser:
        assert (await browser.get(LOGIN)).text == "door password"


@pytest.mark.parametrize("path", ["", "/inner", "/outer/inner"])
@pytest.mark.parametrize("framework", [Starlette, FastAPI])
async def test_the_stylesheet_is_served_where_it_is_linked(
    otp: OTP, path: str, framework: type[Starlette]
) -> None:
    """Mounted anywhere, the page links its stylesheet, and it is there, as CSS."""
    app: Any = make_app(otp)
    for part in reversed(re.findall("/[a-z]+", path)):
        if framework is FastAPI:
            outer = FastAPI()
            outer.mount(part, app)
            app = outer
        else:
            app = Starlette(routes=[Mount(part, app)])
    async with Browser(app) as browser:
        page = Page((await browser.get(path + LOGIN)).text)
        [link] = [a["href"] for a in page.all("link") if a.get("rel") == "stylesheet"]
        assert link == f"{path}/account/static/otp.css"
        answer = await browser.get(link)
        assert (answer.status_code, answer.headers["content-type"]) == (
            200,
            "text/css; charset=utf-8",
        )
        assert "url(" not in answer.text
