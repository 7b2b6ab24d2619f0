"""The command: options, the data, the sites, the windows in turn, the table."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import click

from tests.benchmark import database, django_data, load, report, servers
from tests.benchmark.data import Data, Size, seed_bare, seed_ours
from tests.benchmark.scenarios import MAX_SECONDS, SCENARIOS, Scenario

NAMES = [scenario.name for scenario in SCENARIOS]


class Names(click.ParamType):
    """Names out of a list, with commas between them."""

    name = "a,b,..."

    def __init__(self, known: list[str]) -> None:
        self.known = known

    def convert(self, value: object, param: object, ctx: object) -> list[str]:
        given = value.split(",") if isinstance(value, str) else list(value)  # type: ignore[call-overload]
        for name in given:
            if name not in self.known:
                raise click.BadParameter(f"{name} is none of {', '.join(self.known)}.")
        return [name for name in self.known if name in given]


@click.command(help=__doc__, context_settings={"show_default": True})
@click.option("--rounds", default=5, help="Windows of each scenario at each site.")
@click.option("--seconds", type=click.IntRange(1, MAX_SECONDS), default=4, help="Of a window.")
@click.option("--connections", default=16, help="Requests on their way at a time.")
@click.option("--users", default=10_000, help="Each has a verified session.")
@click.option("--devices-per-user", default=1)
@click.option("--workers", default=1, help="Processes of each site.")
@click.option(
    "--loop",
    type=click.Choice(list(servers.LOOPS)),
    default="uvloop" if find_spec("uvloop") else "asyncio",
    help="Of uvicorn: with its extra standard, or as it comes.",
)
@click.option("--scenarios", type=Names(NAMES), default=",".join(NAMES))
@click.option("--apps", type=Names(list(servers.COMMANDS)), default=",".join(servers.installed()))
@click.option("--json", "file", type=click.Path(path_type=Path), help="Write all windows there.")
def main(
    rounds: int,
    seconds: int,
    connections: int,
    users: int,
    devices_per_user: int,
    workers: int,
    loop: str,
    scenarios: list[str],
    apps: list[str],
    file: Path | None,
) -> None:
    chosen = [scenario for scenario in SCENARIOS if scenario.name in scenarios]
    size = Size(users, devices_per_user)
    with ExitStack() as stack:
        server = stack.enter_context(database.server())
        (shown,) = database.fetch(server.url, "SELECT current_setting('server_version')")
        head = report.headline(f"PostgreSQL {shown[0].split()[0]}", load.client())
        asked = (
            f"{rounds} rounds of {seconds} s, {connections} connections, {workers} worker(s), "
            f"{users:,} users with {devices_per_user} device(s) each, uvicorn on {loop}"
        )
        click.echo(f"{head}\n{asked}\n")
        urls, data = prepare(server, apps, size)
        logs = Path(stack.enter_context(TemporaryDirectory(prefix="otp-benchmark-logs-")))
        sites = {
            name: stack.enter_context(servers.serve(name, urls.get(name), workers, logs, loop))
            for name in apps
        }
        bench = Bench(server, sites, urls, data, connections)
        for scenario in chosen:
            for name in bench.able(scenario):
                bench.window(0, scenario, name, 1)  # a warm-up
        windows = []
        for number in range(1, rounds + 1):
            click.echo(f"round {number} of {rounds}", err=True)
            for scenario in chosen:
                able = bench.able(scenario)
                # Another site begins each round.
                turn = number % len(able) if able else 0
                for name in able[turn:] + able[:turn]:
                    length = max(seconds, scenario.at_least)
                    windows.append(bench.window(number, scenario, name, length))
    click.echo(report.table(windows, chosen, apps))
    click.echo(f"\n{report.shortened(windows)}".rstrip())
    if file is not None:
        raw = {"headline": head, "asked": asked, "windows": [asdict(w) for w in windows]}
        file.write_text(json.dumps(raw, indent=1))


def prepare(
    server: database.Server, apps: list[str], size: Size
) -> tuple[dict[str, str], dict[str, Data]]:
    """A seeded database for each site: their URLs, and what is in them."""
    makers: dict[str, Callable[[str, Size], Data]] = {
        "bare": seed_bare,
        "ours": seed_ours,
        "django-asgi": django_data.seed,
        "django-wsgi": django_data.seed,
    }
    urls: dict[str, str] = {}
    data: dict[str, Data] = {}
    for name in apps:
        if name not in makers:
            continue
        started = time.monotonic()
        copied = "django-asgi" if name == "django-wsgi" and "django-asgi" in urls else None
        own = f"otp_benchmark_{name.replace('-', '_')}"
        template = f"otp_benchmark_{copied}".replace("-", "_") if copied else "template1"
        urls[name] = server.create(own, template)
        data[name] = data[copied] if copied else makers[name](urls[name], size)
        # In no order that an index or a table has.
        random.Random(0).shuffle(data[name].people)
        click.echo(f"{name}: seeded in {time.monotonic() - started:.1f} s", err=True)
    return urls, data


class Bench:
    """The running sites and their data."""

    def __init__(
        self,
        server: database.Server,
        sites: dict[str, servers.Site],
        urls: dict[str, str],
        data: dict[str, Data],
        connections: int,
    ) -> None:
        self.server = server
        self.sites = sites
        self.urls = urls
        self.data = data
        self.connections = connections

    def able(self, scenario: Scenario) -> list[str]:
        """The sites that have what the scenario asks for."""
        return [name for name in self.sites if name in self.data or scenario.name == "public"]

    def window(self, number: int, scenario: Scenario, name: str, seconds: int) -> report.Window:
        """One window, of round 0 for a warm-up; then everything is put back as it was.

        Raises:
            SystemExit: an answer was not the expected one, so the figures would mean nothing.
        """
        site = self.sites[name]
        people = self.data[name].people if name in self.data else []
        requests = scenario.requests(people)
        before = self._cpu(site)
        seen = load.run(
            site.port,
            requests,
            expected=scenario.expected,
            once=scenario.once,
            seconds=seconds,
            connections=self.connections,
        )
        # Requests whose answer nobody waits for any more are worked off, and counted as sent.
        site.settle()
        spent = [now - then for now, then in zip(self._cpu(site), before, strict=True)]
        # The first log-ins are slow, so a warm-up may be over before an answer.
        enough = bool(seen.statuses) or number == 0
        if set(seen.statuses) - {str(scenario.expected)} or seen.failed or not enough:
            log = site.log.read_text()[-2000:]
            raise SystemExit(
                f"{scenario.name} at {name}: expected {scenario.expected}, got {seen.statuses}, "
                f"{seen.failed} failed; {seen.sample}\n{log}"
            )
        if scenario.writes:
            database.execute(self.urls[name], *self.data[name].reset)
        cpu, database_cpu = (1e6 * value / seen.sent for value in spent)
        known = self.server.pid is not None
        return report.Window(
            number, scenario.name, name, seen, cpu, database_cpu if known else None
        )

    def _cpu(self, site: servers.Site) -> tuple[float, float]:
        pid = self.server.pid
        return site.cpu(), 0.0 if pid is None else servers.cpu_of(pid)


if __name__ == "__main__":
    main(prog_name="python -m tests.benchmark")
