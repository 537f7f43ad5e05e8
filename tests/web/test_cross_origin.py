"""What a page of another site, in a browser on this host, gets from the admin's pages and the sandbox's."""

from pathlib import Path
from urllib.parse import urlsplit

import pytest

from smtp2cf.web.cross_origin import Hosts
from tests.support.bridge import Bridge, running_bridge
from tests.support.command import smtp2cf
from tests.web.raw_http import Answer, ask, request

PAGES = ("/", "/metrics", "/queue")
OURS = ["127.0.0.1", "127.0.0.1:8025", "localhost", "LOCALHOST:1", "localhost.", "[::1]:80", "192.0.2.7:99"]
STRANGE = [
    "evil.example",
    "evil.example:8025",
    "localhost.evil.example",
    "127.0.0.1.evil.example",
    "evil.example@localhost",
    "localhost, evil.example",
    "[::1",
    "1.2.3.4.5",
    "x" * 5000,
    "",
]


def admin(bridge: Bridge, octets: bytes) -> Answer:
    return ask(address_of(bridge.admin_url), octets)


def address_of(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    assert parts.hostname
    assert parts.port
    return parts.hostname, parts.port


# ---- DNS rebinding: the page's own name points here


@pytest.mark.parametrize("host", OURS)
def test_addresses_and_localhost_are_ours(host: str) -> None:
    assert Hosts().allow(host)


@pytest.mark.parametrize("host", [*STRANGE, "a b", "bridge.example.com.evil.example"])
def test_other_names_are_not(host: str) -> None:
    assert not Hosts(["bridge.example.com", ""]).allow(host)


def test_names_that_are_given_are_ours_in_any_letter_case() -> None:
    assert Hosts(["Bridge.example.com"]).allow("bridge.EXAMPLE.com.:8025")


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("host", STRANGE)
def test_a_page_is_not_shown_under_a_strange_name(bridge: Bridge, page: str, host: str) -> None:
    answer = admin(bridge, request(page, host=host))
    assert answer.status == 421
    assert "SMTP2CF_ADMIN_HOSTS" in answer.body
    assert answer.body.count("\n") == 1
    assert len(answer.body) < 400


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("host", OURS)
def test_a_page_is_shown_under_a_name_of_ours(bridge: Bridge, page: str, host: str) -> None:
    assert admin(bridge, request(page, host=host)).status == 200


def test_the_target_can_not_stand_in_for_the_host(bridge: Bridge) -> None:
    assert admin(bridge, request("http://evil.example/metrics")).status == 421
    assert admin(bridge, request("/metrics", "Host: evil.example")).status in (400, 421)


def test_who_names_no_host_is_no_browser(bridge: Bridge) -> None:
    assert admin(bridge, b"GET /metrics HTTP/1.0\r\n\r\n").status == 200


@pytest.mark.parametrize("probe", ["/livez", "/readyz"])
def test_probes_are_answered_under_any_name(bridge: Bridge, probe: str) -> None:
    """Those who probe have names of their own for us, and are told nothing that is secret."""
    assert admin(bridge, request(probe, host="smtp2cf.mail.svc.cluster.local:8025")).body == "ok\n"


def test_the_operator_may_list_names_and_the_hosts_own_is_known(tmp_path: Path) -> None:
    names = {"ADMIN_HOSTS": "smtp2cf, bridge.internal", "HOSTNAME": "mx.example.com"}
    with running_bridge(tmp_path, **names) as bridge:
        for host in ("smtp2cf:8025", "bridge.internal", "mx.example.com"):
            assert admin(bridge, request("/metrics", host=host)).status == 200
            assert ask(address_of(bridge.sandbox_url), request("/messages", host=host)).status == 200
        assert admin(bridge, request("/metrics", host="internal")).status == 421


def test_a_listed_name_has_no_port() -> None:
    done = smtp2cf("serve", "--sandbox", ADMIN_HOSTS="bridge:8025")
    assert done.status == 78
    assert "SMTP2CF_ADMIN_HOSTS: 'bridge:8025' is wrong" in done.err
    assert "without a port" in done.err


def test_a_unix_socket_is_out_of_a_browsers_reach(tmp_path: Path) -> None:
    with running_bridge(tmp_path, ADMIN_LISTEN=f"unix:{tmp_path}/admin"):
        assert ask(f"{tmp_path}/admin", request("/metrics", host="anything")).status == 200


# ---- across origins


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize(
    "headers",
    [
        ("Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: no-cors", "Sec-Fetch-Dest: image"),
        ("Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: cors", "Sec-Fetch-Dest: empty"),
        ("Sec-Fetch-Site: same-site", "Sec-Fetch-Mode: cors", "Sec-Fetch-Dest: empty"),
        ("Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: navigate", "Sec-Fetch-Dest: iframe"),
        ("Origin: http://evil.example",),
        ("Origin: http://127.0.0.1:3000",),
        ("Origin: null",),
    ],
)
def test_another_sites_page_gets_nothing(bridge: Bridge, page: str, headers: tuple[str, ...]) -> None:
    answer = admin(bridge, request(page, *headers))
    assert answer.status == 403
    assert "pages are refused" in answer.body
    assert not any(name.startswith("access-control") for name in answer.headers)


@pytest.mark.parametrize(
    "headers",
    [
        ("Sec-Fetch-Site: none", "Sec-Fetch-Mode: navigate", "Sec-Fetch-Dest: document"),
        ("Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: navigate", "Sec-Fetch-Dest: document"),
        ("Sec-Fetch-Site: same-origin", "Sec-Fetch-Mode: cors", "Origin: http://127.0.0.1"),
    ],
    ids=["typed in", "a link on another page", "from here"],
)
def test_a_person_may_come_from_anywhere(bridge: Bridge, headers: tuple[str, ...]) -> None:
    assert admin(bridge, request("/", *headers)).status == 200


@pytest.mark.parametrize("path", [*PAGES, "/livez", "/nowhere"])
def test_every_answer_forbids_to_embed_and_to_guess(bridge: Bridge, path: str) -> None:
    headers = admin(bridge, request(path)).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert headers["cross-origin-opener-policy"] == "same-origin"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cache-control"] == "no-store"
    assert headers["content-security-policy"].startswith("default-src 'none'; ")
    assert "unsafe" not in headers["content-security-policy"]
    assert "aiohttp" not in headers["server"]


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "X"])
@pytest.mark.parametrize("path", ["/", "/metrics", "/livez"])
def test_there_is_only_reading(bridge: Bridge, method: str, path: str) -> None:
    answer = admin(bridge, request(path, method=method))
    assert answer.status in (400, 405, 413)  # 413: what follows CONNECT would be a body without end
    assert not any(name.startswith("access-control") for name in answer.headers)


def test_head_has_the_headers_alone(bridge: Bridge) -> None:
    answer = admin(bridge, request("/", method="HEAD"))
    assert (answer.status, answer.body) == (200, "")


# ---- the sandbox, which holds whole messages


@pytest.mark.parametrize("path", ["/", "/messages", "/messages/1"])
def test_the_sandbox_shows_no_message_to_other_sites(bridge: Bridge, path: str) -> None:
    sandbox = address_of(bridge.sandbox_url)
    assert ask(sandbox, request(path, host="evil.example:8787")).status == 421
    assert ask(sandbox, request(path, "Sec-Fetch-Site: cross-site")).status == 403
    answer = ask(sandbox, request(path))
    assert answer.status in (200, 404)
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cross-origin-resource-policy"] == "same-origin"


def test_nobody_elses_page_makes_the_sandbox_forget(bridge: Bridge) -> None:
    sandbox = address_of(bridge.sandbox_url)
    forget = request("/messages", "Origin: http://evil.example", method="DELETE")
    assert ask(sandbox, forget).status == 403
    ask_first = request("/messages", "Origin: http://evil.example", method="OPTIONS")
    answer = ask(sandbox, ask_first)
    assert answer.status in (403, 405)
    assert not any(name.startswith("access-control") for name in answer.headers)


def test_the_sandboxs_api_may_be_called_by_any_name(bridge: Bridge) -> None:
    """As a container calls another; it wants a token, and shows no mail."""
    verify = request("/client/v4/user/tokens/verify", "Authorization: Bearer x", host="sandbox:8787")
    assert ask(address_of(bridge.sandbox_url), verify).status == 200
