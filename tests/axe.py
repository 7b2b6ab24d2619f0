"""What axe has to say about a page that has loaded."""

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page


def violations(page: Page) -> list[str]:
    """A line each: the rule and the start of the element that breaks it.

    A click waits for the next page to begin, not for all of it: half a page has no main part yet.
    """
    page.wait_for_load_state()
    found = Axe().run(page).response["violations"]
    return [f"{rule['id']}: {node['html'][:160]}" for rule in found for node in rule["nodes"]]
