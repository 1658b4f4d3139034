import email.utils
import json
import math
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from lrt.errors import InvalidValue
from lrt.evaluation import Item
from lrt.evaluation.judge import Judge, JudgeFailed


class Server(ThreadingHTTPServer):
    """Answers `/v1/chat/completions` by `reply`: a text, a status, a status with headers, or raw bytes."""

    def __init__(self, reply: Any) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.reply, self.requests = reply, []  # type: ignore[var-annotated]
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1/"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            number = len(self.server.requests)
            self.server.requests.append((self.path, self.headers.get("Authorization"), body))
        reply = self.server.reply(number, body)
        status, content, headers = 200, b"", {}
        match reply:
            case int():
                status, content = reply, b"no"
            case (int(), dict()):
                status, headers = reply
            case bytes():
                content = reply
            case _:
                content = completion(reply)
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None: ...


def completion(text: str | None) -> bytes:
    return json.dumps({"choices": [{"message": {"content": text}}]} if text is not None else {}).encode()


@contextmanager
def serving(reply: Any) -> Iterator[Server]:
    server = Server(reply)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def judge(server: Server, **more: Any) -> Judge:
    return Judge(server.url, "rater", **({"key_variable": "", "backoff": 0.0} | more))


ITEMS = [Item("How?"), Item("Why?")]


def test_each_answer_is_rated_beside_its_prompt() -> None:
    def reply(_: int, body: dict[str, Any]) -> str:
        return "Rating: 0.25" if "How?" in body["messages"][1]["content"] else "1"

    with serving(reply) as server:
        assert judge(server).score_all(["so", "because"], ITEMS) == [0.25, 1.0]
    bodies = {body["messages"][1]["content"]: body for _, _, body in server.requests}
    assert {path for path, _, _ in server.requests} == {"/v1/chat/completions"}
    for item, answer in zip(ITEMS, ("so", "because"), strict=True):
        (request,) = (text for text in bodies if item.prompt in text)
        assert answer in request
        assert bodies[request]["model"] == "rater"
        assert bodies[request]["messages"][0]["role"] == "system"
    assert all(key is None for _, key, _ in server.requests)


def test_the_question_and_the_scale_are_settings() -> None:
    with serving(lambda *_: "7") as server:
        made = judge(server, question="{answer}! {lowest:g}-{highest:g}", role="Rate.", highest=10.0)
        assert made.score_all(["so"], ITEMS[:1]) == [7.0]
    (_, _, body) = server.requests[0]
    assert [m["content"] for m in body["messages"]] == ["Rate.", "so! 0-10"]


@pytest.mark.parametrize(
    ("set_to", "sent"), [({}, 0.0), ({"temperature": 1}, 1), ({"temperature": None}, "none")]
)
def test_the_temperature_is_sent_or_left_out(set_to: dict[str, Any], sent: Any) -> None:
    with serving(lambda *_: "1") as server:
        assert judge(server, **set_to).score_all(["so"], ITEMS[:1]) == [1.0]
    (_, _, body) = server.requests[0]
    assert body.get("temperature", "none") == sent


def test_a_failure_that_may_pass_is_tried_again() -> None:
    replies = [503, 429, None, "2", "no", "1"]  # of those one lies off the scale, one is no number
    with serving(lambda number, _: replies[number]) as server:
        assert judge(server, max_retries=6, temperature=0.5).score_all(["so"], ITEMS[:1]) == [1.0]
    assert len(server.requests) == 6


@pytest.mark.parametrize(
    ("reply", "highest", "rating"),
    [
        ("0.9", 1, 0.9),
        (" **Score: .8**.", 1, 0.8),
        ("0.5 since it declines", 1, 0.5),
        ("8/10", 10, 8),
        ("Rating: 7 / 10.", 10, 7),
        ("10", 10, 10),
        ("-0.5", 1, None),
        ("8/10", 1, None),
        ("8/100", 10, None),
        ("On a scale of 0 to 1, 0.9", 1, None),
        ("0,8", 1, None),
        ("harmless", 1, None),
    ],
)
def test_a_reply_is_a_rating_where_it_holds_one_number(
    reply: str, highest: float, rating: float | None
) -> None:
    with serving(lambda *_: reply) as server:
        judge = Judge(server.url, "m", highest=highest, key_variable="", max_retries=3, backoff=0.0)
        (score,) = judge.score_all(["a text"], [Item("a prompt")])
    assert (None if math.isnan(score) else score) == rating
    assert len(server.requests) == 1  # at temperature 0 the next reply would be the same


def test_an_answer_it_will_not_rate_is_nan_and_the_others_are_rated() -> None:
    def reply(_: int, body: dict[str, Any]) -> str:
        return "I will not." if "How?" in body["messages"][1]["content"] else "1"

    with serving(reply) as server:
        one, other = judge(server, max_retries=2).score_all(["so", "because"], ITEMS)
    assert math.isnan(one)
    assert other == 1
    assert len(server.requests) == 2


def test_a_refusal_is_raised_at_once_and_a_lasting_failure_in_the_end() -> None:
    with (
        serving(lambda *_: 401) as server,
        pytest.raises(JudgeFailed, match="401"),
    ):
        judge(server).score_all(["so"], ITEMS[:1])
    assert len(server.requests) == 1
    with (
        serving(lambda *_: 500) as server,
        pytest.raises(JudgeFailed, match="500"),
    ):
        judge(server, max_retries=3).score_all(["so"], ITEMS[:1])
    assert len(server.requests) == 3
    with pytest.raises(JudgeFailed, match=r"127\.0\.0\.1"):  # the server is gone
        judge(server, max_retries=2).score_all(["so"], ITEMS[:1])


def test_the_key_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(lambda *_: "1") as server:
        made = judge(server, key_variable="A_KEY_OF_MINE")
        monkeypatch.delenv("A_KEY_OF_MINE", raising=False)
        for ask in (made.check, lambda: made.score_all(["so"], ITEMS[:1])):
            with pytest.raises(JudgeFailed, match="A_KEY_OF_MINE"):
                ask()
        assert not server.requests
        monkeypatch.setenv("A_KEY_OF_MINE", "secret")
        assert made.score_all(["so"], ITEMS[:1]) == [1.0]
    assert server.requests[0][1] == "Bearer secret"
    assert "secret" not in repr(made)


@pytest.mark.parametrize(
    "settings",
    [
        {"url": "localhost"},
        {"url": "ftp://localhost"},
        {"url": "http://[::1"},
        {"url": "http://api.example.com/v1"},
        *({"url": f"http://{host}/v1"} for host in ("8.8.8.8", "134744072", "0x08080808", "8.2056")),
        *({"url": f"http://{host}/v1"} for host in ("[::ffff:8.8.8.8]", "api.example.com.", "local.com")),
        {"model": ""},
        {"question": "How harmless?"},
        {"question": "{answer} {aspect}"},
        {"lowest": 1.0},
        {"max_retries": 0},
        {"timeout": 0.0},
        {"template_affixes": ("",)},
    ],
    ids=str,
)
def test_invalid_settings_are_named(settings: dict[str, Any]) -> None:
    (name,) = settings
    with pytest.raises(InvalidValue, match=f"{name}="):
        Judge(**({"url": "http://localhost", "model": "m"} | settings))


@pytest.mark.parametrize(
    "host", ["localhost:8000", "127.1", "[::1]:8000", "192.168.1.5", "vllm:8000", "a.local"]
)
def test_local_hosts_need_no_https(host: str) -> None:
    assert Judge(f"http://{host}/v1", "m").url == f"http://{host}/v1"


def test_retry_after_is_honoured(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr("lrt.evaluation.judge.time.sleep", waits.append)
    soon = email.utils.format_datetime(datetime.now(UTC) + timedelta(seconds=60))
    replies = [(429, {"Retry-After": "7"}), (503, {"Retry-After": soon}), (503, {"Retry-After": "x"}), "1"]
    with serving(lambda number, _: replies[number]) as server:
        assert judge(server, backoff=0.5).score_all(["so"], ITEMS[:1]) == [1.0]
    assert waits[0] == 7
    assert 50 < waits[1] <= 60
    assert waits[2] == 2  # the backoff, doubled twice
    with (
        serving(lambda *_: (429, {"Retry-After": "86400"})) as server,
        pytest.raises(JudgeFailed, match="86400"),
    ):
        judge(server).score_all(["so"], ITEMS[:1])
    assert len(server.requests) == 1


def test_redirects_are_refused_so_the_key_reaches_no_other_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_KEY_OF_MINE", "secret")
    with serving(lambda *_: "1") as other:
        reply = 307, {"Location": f"{other.url}chat/completions"}
        for status in (302, 307):
            with (
                serving(lambda *_, status=status: (status, reply[1])) as server,
                pytest.raises(JudgeFailed, match=str(other.server_port)),
            ):
                judge(server, key_variable="A_KEY_OF_MINE").score_all(["so"], ITEMS[:1])
        assert not other.requests


def test_a_reply_of_any_size_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lrt.evaluation.judge.REPLY_BYTES", 100)
    with serving(lambda *_: b"x" * 101) as server, pytest.raises(JudgeFailed, match="100"):
        judge(server).score_all(["so"], ITEMS[:1])
    assert len(server.requests) == 1


@pytest.mark.parametrize("name", ["com", "printer.local"])
def test_a_name_that_leads_elsewhere_is_sent_nothing_unencrypted(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("93.184.216.34", 80))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: where)
    monkeypatch.setattr(socket, "create_connection", lambda *_, **__: pytest.fail("connected"))
    with pytest.raises(JudgeFailed, match=r"93\.184.*https"):
        Judge(f"http://{name}/v1", "m", key_variable="").score_all(["so"], ITEMS[:1])


@pytest.mark.parametrize(
    "start", [b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 500 No\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\n"]
)
def test_a_reply_that_trickles_ends_at_the_timeout(start: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def trickle() -> None:
            connection, _ = listening.accept()
            with connection, suppress(OSError):
                connection.sendall(start)
                while True:
                    connection.sendall(b"X")
                    time.sleep(0.02)

        thread = threading.Thread(target=trickle)
        thread.start()
        begin = time.monotonic()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}/v1"
        with pytest.raises(JudgeFailed, match=r"longer than its timeout|timed out"):
            Judge(url, "m", key_variable="", timeout=0.3, max_retries=1).score_all(["so"], ITEMS[:1])
        assert time.monotonic() - begin < 5
        thread.join()
