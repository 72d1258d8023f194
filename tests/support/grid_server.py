"""A real HTTP server on loopback that plays a grid service."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal
from urllib.parse import parse_qs, urlsplit

from lora_scaling.grid import EnergyBin, fetch


@dataclass(frozen=True)
class Request:
    path: str
    query: dict[str, str]
    headers: dict[str, str]


@dataclass(frozen=True)
class Answer:
    body: Any
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    hang_s: float = 0.0  # before the headers
    stall_s: float = 0.0  # in the middle of the body
    trickle: Literal["", "headers", "body"] = ""  # from there on a byte every 20 ms, without an end


Script = Callable[[Request], Answer]


@dataclass
class GridServer:
    """Answers by a script; keeps the requests it got."""

    url: str
    requests: list[Request]


@contextmanager
def serving(script: Script) -> Iterator[GridServer]:
    """A server in a thread until the block ends."""
    seen: list[Request] = []
    released = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            def trickle() -> None:
                while not released.wait(0.02):
                    self.wfile.write(b"x")

            parts = urlsplit(self.path)
            query = {key: values[0] for key, values in parse_qs(parts.query).items()}
            request = Request(parts.path, query, {k.lower(): v for k, v in self.headers.items()})
            seen.append(request)
            answer = script(request)
            released.wait(answer.hang_s)
            text = answer.body if isinstance(answer.body, str) else json.dumps(answer.body)
            body = text.encode()
            kind = "text/html" if text.startswith("<") else "application/json"
            try:
                if answer.trickle == "headers":
                    self.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
                    trickle()
                self.send_response(answer.status)
                for name, value in {"Content-Type": kind, **answer.headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                if answer.trickle == "body":
                    trickle()
                half = len(body) // 2 if answer.stall_s else len(body)
                self.wfile.write(body[:half])
                released.wait(answer.stall_s)
                self.wfile.write(body[half:])
            except (BrokenPipeError, ConnectionResetError):
                pass  # the client gave up, as the test wants

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    url = f"http://127.0.0.1:{server.server_address[1]}"
    fetch._busy.pop(url, None)  # of another test's server, whose port this one was given again
    try:
        yield GridServer(url, seen)
    finally:
        released.set()
        server.shutdown()
        thread.join()
        server.server_close()


def in_turn(answers: Sequence[Answer]) -> Script:
    """The answers one after the other; the last one for ever."""
    left = list(answers)
    return lambda request: left.pop(0) if len(left) > 1 else left[0]


def minutes5(request: Request) -> list[datetime]:
    """The 5-minute starts that a request to Energi Data Service asks for."""
    assert request.query["timezone"] == "UTC"
    start, end = (
        datetime.strptime(request.query[key], "%Y-%m-%dT%H:%M").replace(tzinfo=UTC) for key in ("start", "end")
    )
    return [start + timedelta(minutes=5 * i) for i in range((end - start) // timedelta(minutes=5))]


def energinet(value: Callable[[datetime], float | None], area: str = "DK1") -> Script:
    """Energi Data Service with a value for every 5 minutes; newest first, as it is by default."""

    def answer(request: Request) -> Answer:
        records = [record(moment, value(moment), area) for moment in reversed(minutes5(request))]
        return Answer({"total": len(records), "dataset": request.path.split("/")[-1], "records": records})

    return answer


def record(moment: datetime, value: float | None, area: str = "DK1") -> dict[str, Any]:
    """One of its records."""
    return {"Minutes5UTC": f"{moment:%Y-%m-%dT%H:%M:%S}", "PriceArea": area, "CO2Emission": value}


def even_bins(start: datetime, hours: float, kwh: float, count: int) -> list[EnergyBin]:
    """Constant power."""
    length = timedelta(hours=hours) / count
    return [EnergyBin(start + i * length, start + (i + 1) * length, kwh * 3.6e6 / count) for i in range(count)]
