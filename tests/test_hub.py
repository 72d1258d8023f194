"""Without a network, a model or a data set of the hub is refused after one short question, and what is cached works."""

import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from lora_scaling import hub
from lora_scaling.config import RunConfig, compose
from lora_scaling.errors import UserError
from lora_scaling.estimate.shapes import with_shape
from lora_scaling.runs.run import run

Tiny = Callable[..., RunConfig]


class Listener:
    """A server that takes connections: it closes them at once, or keeps them waiting."""

    def __init__(self, *, closes: bool) -> None:
        self.asked = 0
        self.closes = closes
        self.kept: list[socket.socket] = []
        self.server = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.server.getsockname()[1]}"
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self) -> None:
        while True:
            try:
                connection, _ = self.server.accept()
            except OSError:
                return
            self.asked += 1
            self.kept.append(connection)
            if self.closes:
                connection.close()

    def close(self) -> None:
        self.server.shutdown(socket.SHUT_RDWR)
        self.server.close()
        for connection in self.kept:
            connection.close()


@pytest.fixture(autouse=True)
def online(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As on a machine of a user, whose environment says nothing of the hub."""
    for name in ("HF_HUB_OFFLINE", "HF_HUB_ETAG_TIMEOUT", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE",
                 "HF_DATASETS_CACHE"):  # fmt: skip
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "_asked_s", None)
    monkeypatch.setattr(hub, "_unreachable", False)


@pytest.fixture(params=["closes", "waits", "refuses", "has no address"])
def unreachable(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], int]]:
    """An address of the hub that does not answer; call it for the number of times it was asked, where it is seen."""
    monkeypatch.setattr(hub, "_WAIT_S", 0.5)
    listener = Listener(closes=request.param == "closes")
    urls = {"refuses": "http://127.0.0.1:9", "has no address": "http://hub.invalid"}
    monkeypatch.setenv("HF_ENDPOINT", urls.get(request.param, listener.url))
    yield lambda: listener.asked if request.param in ("closes", "waits") else 1
    listener.close()


def test_a_model_is_refused_after_one_question(unreachable: Callable[[], int], tiny: Tiny) -> None:
    begun_s = time.monotonic()
    outcome = run(tiny("model=hub", "model.id=ORG/NAME", "study=out-of-reach", "on_existing=rerun"))
    assert str(outcome.failure) == (
        "model.id: got ORG/NAME, which is neither a local folder nor cached, and the hub cannot be reached; "
        "download it first, or say model.weights=random for its shape alone"
    )
    assert unreachable() == 1
    assert time.monotonic() - begun_s < 15  # the hub's client alone would try for 40


def test_a_data_set_is_refused_after_one_question(unreachable: Callable[[], int], tmp_path: Path) -> None:
    words = ["data=hub", "data.path=ORG/SET", f"runs_dir={tmp_path}", "metering.idle_s=0", "device=cpu"]
    assert str(run(compose(words)).failure) == (
        "data.path: got ORG/SET, which is not cached, and the hub cannot be reached; "
        "check the network, or use a local file with data=file"
    )
    assert unreachable() == 1


def test_an_estimate_is_refused_after_one_question(unreachable: Callable[[], int]) -> None:
    model = compose(["model=hub", "model.id=ORG/ELSEWHERE"]).model
    with pytest.raises(UserError, match=r"^model\.id: got ORG/ELSEWHERE, whose shape is not here and cannot be fetch"):
        with_shape(model)
    assert unreachable() == 1


def test_the_clients_of_the_hub_work_offline_until_it_answers_again(monkeypatch: pytest.MonkeyPatch) -> None:
    other = type(sys)("datasets.config")
    monkeypatch.setitem(sys.modules, "datasets.config", other)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert not hub.look_for_hub()
    assert constants.is_offline_mode()
    assert other.HF_HUB_OFFLINE is True
    listener = Listener(closes=False)
    try:
        monkeypatch.setenv("HF_ENDPOINT", listener.url)
        assert not hub.look_for_hub()  # asked a moment ago
        assert listener.asked == 0
        monkeypatch.setattr(hub, "_asked_s", time.monotonic() - 61)
        answer = threading.Thread(target=reply, args=(listener,))
        answer.start()
        assert hub.look_for_hub()
        answer.join()
    finally:
        listener.close()
    assert not constants.is_offline_mode()
    assert other.HF_HUB_OFFLINE is False


def reply(listener: Listener) -> None:
    """Answer the first connection."""
    deadline_s = time.monotonic() + 10
    while not listener.kept and time.monotonic() < deadline_s:
        threading.Event().wait(0.01)
    listener.kept[0].recv(4096)
    listener.kept[0].sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")


@pytest.mark.parametrize(("given", "seconds"), [("7", 7.0), ("soon", 2.5), ("", 2.5)])
def test_a_slow_network_is_given_more_time(given: str, seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_ETAG_TIMEOUT", given)
    asked: list[float] = []
    assert hub.answers_in_time(asked.append)
    assert asked == [seconds]


def test_offline_mode_of_the_user_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    listener = Listener(closes=True)
    monkeypatch.setenv("HF_ENDPOINT", listener.url)
    assert not hub.look_for_hub()
    listener.close()
    assert listener.asked == 0
    assert constants.is_offline_mode()


@pytest.mark.parametrize(
    ("variable", "at", "hub_folder"),
    [
        ("HF_HOME", "hf", "hf/hub"),
        ("XDG_CACHE_HOME", "xdg", "xdg/huggingface/hub"),
        ("HF_HUB_CACHE", "models", "models"),
        ("HUGGINGFACE_HUB_CACHE", "models", "models"),
    ],
)
def test_what_is_cached_is_not_refused(
    variable: str, at: str, hub_folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder is found as the hub's client finds it."""
    monkeypatch.delenv("HF_HOME")
    monkeypatch.setenv(variable, str(tmp_path / at))
    assert not hub.is_cached("models", "ORG/NAME")
    snapshot = tmp_path / hub_folder / "models--ORG--NAME" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    assert hub.is_cached("models", "ORG/NAME")


def test_a_prepared_data_set_is_not_refused(tmp_path: Path) -> None:
    (tmp_path / "hf" / "datasets" / "org___set").mkdir(parents=True)
    assert hub.is_cached("datasets", "ORG/SET")
    assert not hub.is_cached("datasets", "ORG/NAME")
