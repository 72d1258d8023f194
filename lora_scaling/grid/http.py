"""Get a JSON document, with bounded retries and masked secrets. Only this module uses `requests`."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import quote, urlsplit, urlunsplit

from lora_scaling.grid.series import GridBusyError, GridError

ATTEMPTS = 4
MAX_BODY_BYTES = 20_000_000
EXCERPT = 120  # characters of an error's body quoted in a reason


@dataclass(frozen=True, kw_only=True)
class Client:
    """Client for GET requests below `base_url`; waits at most `max_wait_s` in total between tries of one request."""

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

        backoff_s = 0.5 * 2.0**attempt
        address = self.base_url.rstrip("/") + path
        try:
            # Redirects are not followed, because the header with the token would be sent to another host.
            with requests.get(
                address,
                params=params,
                headers=headers,
                timeout=self.timeout_s,
                allow_redirects=False,
                stream=True,
            ) as response:
                body = _body(response.iter_content(4096), time.monotonic() + 3 * self.timeout_s)
        except (requests.RequestException, OSError, ValueError) as error:
            if _timed_out(error):
                return None, "", f"{self.host} did not answer within {self.timeout_s:g} s", backoff_s
            return None, "", self.mask(f"{self.host} cannot be reached ({_cause(error)})"), None
        url = self.mask(without_login(response.url or address))
        if response.status_code != 200:
            excerpt = self.mask(_excerpt(body))
            failure = f"{self.host} answered HTTP {response.status_code}" + (f" ({excerpt})" if excerpt else "")
            if response.status_code != 429 and not 500 <= response.status_code < 600:
                return None, url, failure, None
            asked_s = retry_after_s(response.headers.get("Retry-After"), body)
            return None, url, failure, backoff_s if asked_s is None else asked_s
        try:
            return json.loads(body), url, None, None
        except (ValueError, RecursionError):
            kind = response.headers.get("Content-Type", "no content type").split(";")[0]
            return None, url, self.mask(f"{self.host} answered {kind} that is not JSON ({_excerpt(body)})"), None

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


def _body(pieces: Iterable[bytes], deadline_s: float) -> str:
    """Return the whole answer as text. Raises TimeoutError if it trickles, ValueError if it is far too long."""
    body = bytearray()
    for piece in pieces:
        body += piece
        if len(body) > MAX_BODY_BYTES:
            raise ValueError(f"more than {MAX_BODY_BYTES} bytes")
        if time.monotonic() > deadline_s:
            raise TimeoutError("the answer came too slowly")
    return body.decode("utf-8", "replace")


def _excerpt(body: str) -> str:
    """Return the printable beginning of an answer, on one line."""
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", body[:2000])).strip()
    return text if len(text) <= EXCERPT else text[:EXCERPT] + "…"
