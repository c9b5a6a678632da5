from __future__ import annotations

import contextlib
import socket
import threading

import pytest

from r1jax.errors import UserError
from r1jax.evaluation.endpoint import API_KEY, Endpoint, Reply, ask
from tests.helpers.chat_server import chat_server, reply

pytestmark = pytest.mark.filterwarnings("ignore:.*asking again")
MESSAGES = [{"role": "user", "content": "What is 1 + 1?"}]


def waits(into):
    """Stands in for time.sleep."""
    return into.append


def failing(status, message="no", **headers):
    return lambda body: (status, {"error": {"message": message}}, headers)


@pytest.mark.parametrize("suffix", ["", "/", "/v1", "/v1/", "/v1/chat/completions"])
def test_the_address_may_be_given_in_several_forms(suffix) -> None:
    assert Endpoint(f"http://localhost:8000{suffix}", "m").address == "http://localhost:8000/v1/chat/completions"


def test_a_request_holds_model_messages_settings_and_key(monkeypatch) -> None:
    monkeypatch.setenv(API_KEY, "secret")
    with chat_server(lambda body: reply("2")) as (url, received):
        assert ask(Endpoint(url, "some/model"), MESSAGES, {"temperature": 0.6}) == Reply("2", 5, True)
    assert received == [
        {
            "model": "some/model",
            "messages": MESSAGES,
            "temperature": 0.6,
            "path": "/v1/chat/completions",
            "key": "Bearer secret",
        }
    ]


def test_what_the_server_leaves_out_is_unknown_and_reasoning_comes_before_the_content() -> None:
    with chat_server(lambda body: reply("2", tokens=None, finish="length", reasoning_content="1 and 1")) as (url, _):
        assert ask(Endpoint(url, "m"), MESSAGES, {}) == Reply("<think>\n1 and 1\n</think>\n\n2", None, False)
    with chat_server(lambda body: reply("a\ud800")) as (url, _):
        assert ask(Endpoint(url, "m"), MESSAGES, {}).text == "a?"


def test_a_failure_that_may_pass_is_repeated_with_longer_waits() -> None:
    replies = iter([(429, {}, {"Retry-After": "7"}), (503, "busy", {}), (500, {}, {}), reply("2")])
    waited: list[float] = []
    with chat_server(lambda body: next(replies)) as (url, received):
        assert ask(Endpoint(url, "m"), MESSAGES, {}, waits(waited)).text == "2"
    assert len(received) == 4
    assert waited[0] == 7  # as the server asks for
    assert 1 <= waited[1] <= 2 <= waited[2] <= 4


def test_a_warning_that_is_the_same_each_time_says_that_a_request_is_repeated() -> None:
    replies = iter([failing(429, f"wait {i} s")(None) for i in range(3)] + [reply("2")])
    with chat_server(lambda body: next(replies)) as (url, _), pytest.warns(UserWarning) as given:
        assert ask(Endpoint(url, "m"), MESSAGES, {}, waits([])).text == "2"
    assert {str(one.message) for one in given} == {f"{url} limits the rate of requests: asking again, up to 5 times"}


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (failing(401), "needs an API key: set OPENAI_API_KEY"),
        (failing(404, "no model m"), "does not know the model 'm'.*no model m.*check --model"),
        (failing(400, "too long"), r"refuses the request \(status 400: too long\)"),
        (failing(429, "slow down"), r"limits the rate of requests \(slow down\), 2 times"),
        (failing(502, "gateway"), r"answers with status 502 \(gateway\), 2 times"),
        (lambda body: "<html>", "does not answer with JSON"),
        (lambda body: {"object": "list"}, "answers without a completion"),
        (lambda body: {"choices": []}, "answers without a completion"),
    ],
)
def test_a_failure_that_stays_is_one_line(answer, message, monkeypatch) -> None:
    monkeypatch.delenv(API_KEY, raising=False)
    with chat_server(answer) as (url, _), pytest.raises(UserError, match=message) as caught:
        ask(Endpoint(url, "m", retries=1), MESSAGES, {}, waits([]))
    assert "\n" not in str(caught.value)


def test_content_in_parts_and_odd_counts_of_tokens_are_read() -> None:
    parts = [{"type": "text", "text": "2 and "}, {"type": "refusal"}, {"type": "text", "text": "3"}]
    answers = iter([reply(parts), reply(None), {**reply("2"), "usage": [5]}, reply("2", tokens="5")])  # type: ignore[arg-type]
    with chat_server(lambda body: next(answers)) as (url, _):
        found = [ask(Endpoint(url, "m"), MESSAGES, {}) for _ in range(4)]
    assert found == [Reply("2 and 3", 5, True), Reply("", 5, True), Reply("2", None, True), Reply("2", None, True)]


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ("", "gives an answer that ends early, 1 times"),
        ('{"choices": [{"mess', "gives an answer that ends early, 1 times"),
        ({"error": {"message": "no room"}}, r"answers with an error \(no room\), 1 times"),
        ({"choices": []}, "answers without a completion, 1 times"),
        (reply(7), "answers without a completion, 1 times"),  # type: ignore[arg-type]
        ({"choices": [{"message": None}]}, "answers without a completion, 1 times"),
    ],
)
def test_an_answer_without_a_completion_is_asked_for_again(broken, message) -> None:
    answers = iter([broken, reply("2"), broken])
    with chat_server(lambda body: next(answers)) as (url, _):
        assert ask(Endpoint(url, "m", retries=1), MESSAGES, {}, waits([])).text == "2"
        with pytest.raises(UserError, match=message):
            ask(Endpoint(url, "m", retries=0), MESSAGES, {})


def test_an_answer_that_arrives_too_slowly_is_given_up() -> None:
    stop = threading.Event()

    def trickle(server) -> None:
        connection, _ = server.accept()
        with connection, contextlib.suppress(OSError):
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
            while not stop.wait(0.02):
                connection.sendall(b" ")

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=trickle, args=(server,))
        thread.start()
        try:
            url = f"http://127.0.0.1:{server.getsockname()[1]}"
            with pytest.raises(UserError, match=r"gave no answer within 0\.1 s"):
                ask(Endpoint(url, "m", retries=0, timeout=0.1), MESSAGES, {})
        finally:
            stop.set()
            thread.join()


def test_a_server_that_is_down_or_silent_is_one_line() -> None:
    with socket.socket() as idle:
        idle.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{idle.getsockname()[1]}"
        with pytest.raises(UserError, match=r"cannot be reached \(.*refused.*\), 3 times"):
            ask(Endpoint(url, "m", retries=2), MESSAGES, {}, waits([]))
        idle.listen()  # accepts, and never answers
        with pytest.raises(UserError, match=r"gave no answer within 0\.05 s, 1 times"):
            ask(Endpoint(url, "m", retries=0, timeout=0.05), MESSAGES, {}, waits([]))


def test_an_address_without_a_scheme_is_refused() -> None:
    with pytest.raises(UserError, match="write an address such as http://localhost:8000/v1"):
        Endpoint("localhost:8000", "m")
