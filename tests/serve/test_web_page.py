"""The page's files as they are served: only those, only from here, under a strict policy."""

import re
from importlib.resources import files

import pytest
from fixed_engines import config, gateway
from starlette.testclient import TestClient

from aligner_serve.ingress import build_api

FILES = sorted(path.name for path in files("aligner_serve").joinpath("page").iterdir())


@pytest.fixture(scope="module")
def client() -> TestClient:
    return TestClient(build_api(gateway(config())))


def path_of(name: str) -> str:
    return "/" if name == "index.html" else f"/page/{name}"


@pytest.mark.parametrize("name", FILES)
def test_every_file_of_the_package_is_served_as_what_it_is(client: TestClient, name: str) -> None:
    response = client.get(path_of(name))
    assert response.status_code == 200
    assert response.content == files("aligner_serve").joinpath("page", name).read_bytes()
    kinds = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg"}
    assert response.headers["content-type"].startswith(kinds[name.rpartition(".")[2]])
    assert response.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("path", ["/page/", "/page/..%2fwire.py", "/page/nope.js", "/index.html"])
def test_nothing_else_is(client: TestClient, path: str) -> None:
    response = client.get(path)
    assert response.status_code == 404
    assert response.json()["error"]["code"] == "unknown_url"


def test_the_policy_lets_in_nothing_but_these_files(client: TestClient) -> None:
    policy = client.get("/").headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy and "http" not in policy and "*" not in policy
    assert "frame-ancestors 'none'" in policy


@pytest.mark.parametrize("name", FILES)
def test_no_file_names_an_address_or_writes_html(name: str) -> None:
    text = files("aligner_serve").joinpath("page", name).read_text(encoding="utf-8")
    addresses = re.findall(r"(?:https?:)?//[\w.]+\.\w+[^\s\"']*", text)
    assert all(address.startswith("http://www.w3.org/") for address in addresses)
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|eval\(|\son\w+=|style=", text)


def test_an_unchanged_file_is_not_sent_again(client: TestClient) -> None:
    first = client.get("/page/page.css")
    again = client.get("/page/page.css", headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


def test_the_page_is_no_part_of_the_described_api(client: TestClient) -> None:
    assert not any(
        "page" in path or path == "/" for path in client.get("/openapi.json").json()["paths"]
    )
