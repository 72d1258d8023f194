"""The server that plays a grid service in these tests is a real one."""

import requests

from tests.support.grid_server import Answer, in_turn, serving


def test_the_server_answers_over_a_real_socket() -> None:
    script = in_turn([Answer("<p>busy</p>", 503, {"Retry-After": "1"}), Answer({"records": []})])
    with serving(script) as server:
        first = requests.get(server.url + "/a", params={"b": "c"}, timeout=5)
        second = requests.get(server.url + "/d", timeout=5)
    assert (first.status_code, first.headers["Retry-After"], first.text) == (503, "1", "<p>busy</p>")
    assert second.json() == {"records": []}
    assert [(r.path, r.query) for r in server.requests] == [("/a", {"b": "c"}), ("/d", {})]
