"""The page at `/`: everything it needs comes from the café itself."""

import re
from html.parser import HTMLParser

from fastapi.testclient import TestClient


class Page(HTMLParser):
    """Collects what a page loads and links to, its ids, and what refers to ids."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.ids: list[str] = []
        self.refers: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.addresses += [value for key in ("src", "href") if (value := given.get(key))]
        self.ids += filter(None, [given.get("id")])
        for key in ("for", "aria-labelledby", "aria-describedby"):
            self.refers += (given.get(key) or "").split()


def test_the_page_and_all_it_loads_come_from_the_cafe(client: TestClient) -> None:
    answer = client.get("/")
    assert answer.status_code == 200
    assert answer.headers["Content-Type"].startswith("text/html")
    addresses = Page(answer.text).addresses
    assert {"/static/app.js", "/static/style.css", "/docs"} <= set(addresses)
    for address in addresses:
        assert address.startswith("/")
        assert client.get(address).status_code == 200
    for address in ("/static/app.js", "/static/style.css"):
        assert not re.search(r"https?:|@import|url\(", client.get(address).text)


def test_the_policy_of_the_page_allows_only_its_own_scripts(client: TestClient) -> None:
    html = client.get("/").text
    assert "default-src 'self'" in html
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\bstyle=|\bon[a-z]+=", html)


def test_names_reach_the_page_as_text_only(client: TestClient) -> None:
    script = client.get("/static/app.js").text
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b", script)


def test_what_the_page_refers_to_is_on_the_page(client: TestClient) -> None:
    page = Page(client.get("/").text)
    used = set(re.findall(r'find\("([\w-]+)"\)', client.get("/static/app.js").text))
    assert len(page.ids) == len(set(page.ids))
    assert set(page.refers) | used <= set(page.ids)
