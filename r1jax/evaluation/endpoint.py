"""Completions of a model behind an OpenAI-compatible endpoint, by /v1/chat/completions."""

from __future__ import annotations

import contextlib
import dataclasses
import email.utils
import http.client
import json
import os
import random
import time
import urllib.error
import urllib.request
import warnings
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import urlsplit

from r1jax.errors import UserError
from r1jax.settings import may_change

API_KEY = "OPENAI_API_KEY"  # the environment variable
_RETRIED = (408, 409, 425, 429, 500, 502, 503, 504)
_FIRST_WAIT, _LONGEST_WAIT = 1.0, 60.0  # seconds before the first and before any later retry
_ASKED = "/chat/completions"


@dataclasses.dataclass(frozen=True)
class Endpoint:
    """An OpenAI-compatible server and how it is asked.

    url: the address with or without /v1, or that of /chat/completions itself.
    model: the name of the model there.
    retries: attempts after the first one, for a failed connection, a rate limit or an error of the server.
    timeout: seconds for one completion.
    """

    url: str
    model: str
    retries: int = may_change(5)
    timeout: float = may_change(600.0)

    def __post_init__(self) -> None:
        if urlsplit(self.url).scheme not in ("http", "https") or not urlsplit(self.url).netloc:
            raise UserError(f"--endpoint={self.url}: write an address such as http://localhost:8000/v1")

    @property
    def address(self) -> str:
        """The address of /chat/completions."""
        base = self.url.rstrip("/")
        if base.endswith(_ASKED):
            return base
        return (base if urlsplit(base).path else f"{base}/v1") + _ASKED


@dataclasses.dataclass(frozen=True)
class Reply:
    """A completion of an endpoint.

    text: reasoning that the server returns by itself is put into think tags before the content.
    tokens: tokens of the completion, as the server counts them; None if it does not.
    finished: False if the limit of tokens cut the completion.
    """

    text: str
    tokens: int | None
    finished: bool


class _Retry(Exception):
    """A failure that may pass. wait: seconds that the server asks for, 0 if it asks for none."""

    def __init__(self, message: str, wait: float = 0.0) -> None:
        super().__init__(message)
        self.wait = wait


def ask(
    endpoint: Endpoint,
    messages: Sequence[dict[str, str]],
    settings: dict[str, Any],
    sleep: Callable[[float], object] = time.sleep,
) -> Reply:
    """One completion of some messages; waits twice as long before each further attempt, with a random part.

    settings: fields of the request beside model and messages, such as temperature, top_p, max_tokens and seed.
    sleep: called with seconds between attempts.

    Raises UserError if the endpoint refuses the key, the model or the request, or still fails after the last attempt.
    """
    body = json.dumps({"model": endpoint.model, "messages": list(messages), **settings}).encode()
    for attempt in range(endpoint.retries + 1):
        try:
            return _reply(_post(endpoint, body), endpoint)
        except _Retry as failure:
            if attempt == endpoint.retries:
                raise UserError(f"{failure}, {attempt + 1} times: check --endpoint, or raise --retries") from failure
            # Without the reason in brackets, which may differ each time: commands print a warning once.
            what = str(failure).partition(" (")[0]
            warnings.warn(f"{what}: asking again, up to {endpoint.retries} times", stacklevel=2)
            wait = max(failure.wait, _FIRST_WAIT * 2**attempt * random.uniform(0.5, 1.0))
            sleep(min(wait, _LONGEST_WAIT))
    raise AssertionError  # the last attempt returns or raises


def _post(endpoint: Endpoint, body: bytes) -> Any:
    """The JSON that the server answers; raises _Retry or UserError."""
    headers = {"Content-Type": "application/json"}
    if key := os.environ.get(API_KEY):
        headers["Authorization"] = f"Bearer {key}"
    request = urllib.request.Request(endpoint.address, body, headers)
    try:
        with urllib.request.urlopen(request, timeout=endpoint.timeout) as response:
            content = _content(response, time.monotonic() + endpoint.timeout)
    except urllib.error.HTTPError as error:
        raise _refusal(endpoint, error) from error
    except TimeoutError as error:
        raise _Retry(f"{endpoint.url} gave no answer within {endpoint.timeout:g} s") from error
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise _Retry(f"{endpoint.url} cannot be reached ({reason})") from error
    try:
        return json.loads(content)
    except ValueError as error:
        if content.lstrip()[:1] in (b"", b"{"):  # a connection that ended early, and no page of a website
            raise _Retry(f"{endpoint.url} gives an answer that ends early") from error
        raise UserError(f"{endpoint.url} does not answer with JSON: check the address of --endpoint") from error


def _content(response: http.client.HTTPResponse, end: float) -> bytes:
    """The body of a response; raises TimeoutError at the time ``end``, also if bytes still arrive now and then."""
    parts: list[bytes] = []
    while part := response.read1():
        parts.append(part)
        if time.monotonic() > end:
            raise TimeoutError
    return b"".join(parts)


def _refusal(endpoint: Endpoint, error: urllib.error.HTTPError) -> Exception:
    """The exception for an HTTP status of at least 400."""
    message = _message(error)
    if error.code in _RETRIED:
        what = "limits the rate of requests" if error.code == 429 else f"answers with status {error.code}"
        return _Retry(f"{endpoint.url} {what} ({message})", _wait(error.headers.get("Retry-After")))
    if error.code in (401, 403):
        have = "refuses the API key in" if os.environ.get(API_KEY) else "needs an API key: set"
        return UserError(f"{endpoint.url} {have} {API_KEY} (status {error.code}: {message})")
    if error.code == 404:
        return UserError(
            f"{endpoint.url} does not know the model {endpoint.model!r} or has no {_ASKED} ({message}): check "
            "--model and --endpoint"
        )
    return UserError(f"{endpoint.url} refuses the request (status {error.code}: {message})")


def _message(error: urllib.error.HTTPError) -> str:
    """The message in the body of an error, or the name of the status."""
    with contextlib.suppress(OSError, ValueError, http.client.HTTPException):
        content = json.loads(error.read())
        return _line(content.get("error", content) if isinstance(content, dict) else content)
    return str(error.reason)


def _line(error: Any) -> str:
    """The message of an error in JSON as one line of at most 200 characters."""
    text = error.get("message", error) if isinstance(error, dict) else error
    return " ".join(str(text).split())[:200]


def _wait(header: str | None) -> float:
    """Seconds of a Retry-After header, which holds a number or a date; 0 without one."""
    if not header:
        return 0.0
    with contextlib.suppress(ValueError):
        return max(0.0, float(header))
    with contextlib.suppress(ValueError, TypeError):
        return max(0.0, email.utils.parsedate_to_datetime(header).timestamp() - time.time())
    return 0.0


def _reply(content: Any, endpoint: Endpoint) -> Reply:
    """The first completion in the JSON of an answer; raises _Retry if there is none, or UserError."""
    if isinstance(content, dict) and content.get("error"):  # as gateways report what failed behind them
        raise _Retry(f"{endpoint.url} answers with an error ({_line(content['error'])})")
    try:
        choice, usage = content["choices"][0], content.get("usage")
        message = choice["message"]
        text, finish = _text(message.get("content")), choice.get("finish_reason")
        reasoning = _text(message.get("reasoning_content") or message.get("reasoning"))
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise _Retry(f"{endpoint.url} answers without a completion") from error
    if reasoning:
        text = f"<think>\n{reasoning}\n</think>\n\n{text}"
    text = text.encode("utf-8", "replace").decode()  # JSON may hold half of a surrogate pair, which no file can
    tokens = usage.get("completion_tokens") if isinstance(usage, dict) else None
    return Reply(text, tokens if isinstance(tokens, int) else None, finish != "length")


def _text(content: Any) -> str:
    """The text of a message, which is a text, null, or a list of parts of which some hold text."""
    if isinstance(content, list):
        return "".join(_text(part.get("text")) for part in content)
    if content is not None and not isinstance(content, str):
        raise TypeError
    return content or ""
