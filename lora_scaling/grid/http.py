"""Get a JSON document, with bounded retries and masked secrets. Only this module uses `requests`.

The retries are not urllib3's `Retry`: it waits as long as the server asks, whatever `grid.max_wait_s` says, ends on a
`Retry-After` of 1.5 s, does not see the wait that a service states in its body, reads the body of an error to its end
however long it is, and does not retry an answer that stalls in the middle.
"""

from __future__ import annotations

import json
import queue
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar
from urllib.parse import quote, urlsplit, urlunsplit

from lora_scaling.grid.series import GridBusyError, GridError

ATTEMPTS = 4
MAX_BODY_BYTES = 20_000_000
EXCERPT = 120  # characters of an error's body quoted in a reason
Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A server's whole answer to one request."""

    status: int
    headers: Mapping[str, str]
    url: str
    body: str


@dataclass(frozen=True, kw_only=True)
class Client:
    """Client for GET requests below `base_url`.

    timeout_s: one try, from connecting to the last byte; max_wait_s: all waiting between the tries of one request.
    """

    base_url: str
    timeout_s: float
    max_wait_s: float
    secret: str | None = field(default=None, repr=False)

    @property
    def host(self) -> str:
        """The host, which error messages name."""
        return urlsplit(self.base_url).hostname or "the grid service"

    def get_json(
        self, path: str, params: Mapping[str, str] | None = None, headers: Mapping[str, str] | None = None
    ) -> tuple[Any, str]:
        """Return (the document, its address without secrets).

        A status of 429 or 5xx and time-outs, of the connection or of the body, are tried again, up to four tries.

        Raises:
            GridError: anything else failed, or the server asked for a wait beyond `max_wait_s`. It contains no secret.
        """
        waited_s = 0.0
        for attempt in range(1, ATTEMPTS + 1):
            document, url, failure, wait_s = self._attempt(path, params, headers, attempt)
            if failure is None:
                return document, url
            tries = f" after {attempt} tries" if attempt > 1 else ""
            if wait_s is None:
                raise GridError(f"{failure}{tries}")
            if attempt == ATTEMPTS:
                raise GridBusyError(f"{failure}{tries}", wait_s)
            if waited_s + wait_s > self.max_wait_s:
                limit = f"grid.max_wait_s is {self.max_wait_s:g}"
                raise GridBusyError(f"{failure}; the next try is {wait_s:g} s away and {limit}", wait_s)
            time.sleep(wait_s)
            waited_s += wait_s
        raise AssertionError("unreachable")

    def _attempt(
        self, path: str, params: Mapping[str, str] | None, headers: Mapping[str, str] | None, attempt: int
    ) -> tuple[Any, str, str | None, float | None]:
        """Return (document, address, failure or None, seconds until the next try or None for no further try)."""
        import requests  # late, because it is not needed without a zone

        address = self.base_url.rstrip("/") + path
        backoff_s = 0.5 * 2.0**attempt
        try:
            answer = _within(self.timeout_s, lambda: self._exchange(address, params, headers))
        except (requests.RequestException, OSError, ValueError) as error:
            if _timed_out(error):
                return None, "", f"{self.host} did not answer within {self.timeout_s:g} s", backoff_s
            return None, "", self.mask(f"{self.host} cannot be reached ({_cause(error)})"), None
        url = self.mask(without_login(answer.url or address))
        if answer.status != 200:
            excerpt = self.mask(_excerpt(answer.body))
            failure = f"{self.host} answered HTTP {answer.status}" + (f" ({excerpt})" if excerpt else "")
            if answer.status != 429 and not 500 <= answer.status < 600:
                return None, url, failure, None
            asked_s = retry_after_s(answer.headers.get("Retry-After"), answer.body)
            return None, url, failure, backoff_s if asked_s is None else asked_s
        try:
            return json.loads(answer.body), url, None, None
        except (ValueError, RecursionError):
            kind = answer.headers.get("Content-Type", "no content type").split(";")[0]
            return None, url, self.mask(f"{self.host} answered {kind} that is not JSON ({_excerpt(answer.body)})"), None

    def _exchange(self, address: str, params: Mapping[str, str] | None, headers: Mapping[str, str] | None) -> Answer:
        """Send one request and read its answer. Raises ValueError if that is far too long."""
        import requests

        deadline_s = time.monotonic() + self.timeout_s
        session = requests.Session()
        # Redirects are not followed, because the header with the token would be sent to another host; and requests
        # reads the body of one to its end, however long it is, unless it knows of no target.
        session.get_redirect_target = lambda resp: None
        with (
            session,
            session.get(
                address, params=params, headers=headers, timeout=self.timeout_s, allow_redirects=False, stream=True
            ) as response,
        ):
            body = bytearray()
            while piece := response.raw.read1(65536, decode_content=True):
                body += piece
                if len(body) > MAX_BODY_BYTES:
                    raise ValueError(f"more than {MAX_BODY_BYTES} bytes")
                if time.monotonic() > deadline_s:
                    raise TimeoutError("the answer came too slowly")
            text = body.decode("utf-8", "replace")
            return Answer(status=response.status_code, headers=response.headers, url=response.url, body=text)

    def mask(self, text: str) -> str:
        """Remove the secret, and anything that looks like one, from `text`."""
        secret = self.secret or ""
        for form in (secret, quote(secret, safe=""), repr(secret)[1:-1]):
            text = text.replace(form, "***") if form else text
        return masked(text)


def masked(text: str) -> str:
    """Remove logins, and the values of parameters that look like secrets, from `text`."""
    text = re.sub(r"//[^/@\s]+@", "//***@", text)
    return re.sub(r"(?i)((?:token|api[-_]?key|secret|password)[\"']?\s*[=:]\s*[\"']?)[^\s&\"',)]+", r"\1***", text)


def without_login(url: str) -> str:
    """Remove `user:password@` from a URL."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def retry_after_s(header: str | None, body: str, now: datetime | None = None) -> float | None:
    """Return the seconds a server asks to wait: from `Retry-After` (seconds or a date), or "again in 197 seconds"."""
    if header is not None:
        text = header.strip()
        if re.fullmatch(r"\d+(\.\d+)?", text):
            return float(text)
        try:
            moment = parsedate_to_datetime(text)
        except ValueError:
            pass
        else:
            moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment
            return max(0.0, (moment - (now or datetime.now(UTC))).total_seconds())
    found = re.search(r"again in (\d{1,6}) second", body[:1000])
    return float(found[1]) if found else None


def _timed_out(error: Exception) -> bool:
    """Return whether time ran out, also while reading the answer (which requests reports as a lost connection)."""
    import requests
    from urllib3.exceptions import TimeoutError as SocketTimeout

    within = error.args[0] if error.args else None
    return isinstance(error, (requests.Timeout, TimeoutError)) or isinstance(within, SocketTimeout)


def _cause(error: Exception) -> str:
    """Return the underlying error, without the wrappers of requests and urllib3 or the address they repeat."""
    wrapped = error.args[0] if error.args else error
    text = str(getattr(wrapped, "reason", wrapped))
    return text.rpartition("): ")[2][:EXCERPT] or type(error).__name__


def _within(seconds: float, call: Callable[[], Result]) -> Result:
    """Return the result of `call`, or raise TimeoutError after `seconds`.

    A socket's own time-out starts anew with every byte, so a server that sends one now and then would never meet it.
    The call therefore runs in a thread, which is left behind when time is up and does not outlive the process.
    """
    results: queue.SimpleQueue[tuple[Result | None, Exception | None]] = queue.SimpleQueue()

    def run() -> None:
        try:
            results.put((call(), None))
        except Exception as error:
            results.put((None, error))

    threading.Thread(target=run, name="lora-scaling-grid", daemon=True).start()
    try:
        result, error = results.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError("the answer came too slowly") from None
    if error is not None:
        raise error
    return result  # type: ignore[return-value]


def _excerpt(body: str) -> str:
    """Return the printable beginning of an answer, on one line."""
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", body[:2000])).strip()
    return text if len(text) <= EXCERPT else text[:EXCERPT] + "…"
