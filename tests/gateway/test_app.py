"""What HTTP clients are told, over a client that is only pretended: every kind of answer, every refusal, and what happens when they leave."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from types import SimpleNamespace

import pytest

from swarm.client.session import Token
from swarm.errors import Closed, InvalidConfig, MissingLayers, PeerLost, Refused, SwarmError, TimedOut, UsageError
from swarm.gateway.access import Keys
from swarm.gateway.app import build
from swarm.gateway.gateway import names
from swarm.gateway.rate import BARS, Rate
from tests.gateway.pretend import EOS, Client, Session, ask, asking, gateway, keys, seen
from tests.net.virtual import run

CHAT = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
TEXT = {"model": "m", "prompt": "hi"}
COMPLETIONS, CHATS = "/v1/completions", "/v1/chat/completions"


def test_a_completion_with_its_usage():
    client = Client("héllo")
    said = asking(gateway(client), COMPLETIONS, {**TEXT, "seed": 7})
    assert said.status == 200 and said.json["object"] == "text_completion" and said.json["created"] == 1_000_000 and said.json["model"] == "m"
    assert said.json["choices"] == [{"index": 0, "text": "héllo", "logprobs": None, "finish_reason": "stop"}]
    assert said.json["usage"] == {"prompt_tokens": 2, "completion_tokens": 6, "total_tokens": 8}
    ((ids, options),) = client.sessions[0].asked
    assert list(ids) == [105, 106] and options["max_new_tokens"] == 16 and options["temperature"] == 1.0 and options["seed"] == 7


def test_a_chat_goes_through_the_models_own_template():
    client = Client()
    body = {
        "model": "models/m",
        "messages": [{"role": "developer", "content": "be"}, {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}],
    }
    said = asking(gateway(client), CHATS, body)
    assert said.json["choices"][0]["message"] == {"role": "assistant", "content": "hello", "refusal": None}
    assert client.text.decode(client.sessions[0].asked[0][0]) == "<system>be<user>ab<assistant>"
    assert client.sessions[0].asked[0][1]["max_new_tokens"] == 256


def test_a_stream_says_the_same_in_pieces_and_counts_if_asked():
    said = asking(gateway(), CHATS, {**CHAT, "stream": True, "stream_options": {"include_usage": True}})
    assert said.headers["content-type"].startswith("text/event-stream") and said.headers["cache-control"] == "no-store"
    *chunks, usage, done = said.events
    assert done == "[DONE]" and usage["choices"] == [] and usage["usage"] == {"prompt_tokens": 19, "completion_tokens": 5, "total_tokens": 24}
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert deltas[0] == {"role": "assistant", "content": ""} and "".join(delta.get("content", "") for delta in deltas) == "hello"
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None] * 6 + ["stop"]
    assert all(chunk["usage"] is None for chunk in chunks) and len({chunk["id"] for chunk in chunks}) == 1
    plain = asking(gateway(), COMPLETIONS, {**TEXT, "stream": True})
    assert all("usage" not in chunk for chunk in plain.events[:-1])
    assert "".join(chunk["choices"][0]["text"] for chunk in plain.events[:-1]) == "hello"


def test_length_is_told_apart_from_the_end():
    for stream in (False, True):
        said = asking(gateway(), COMPLETIONS, {**TEXT, "max_tokens": 3, "stream": stream})
        last = said.events[-2] if stream else said.json
        assert last["choices"][0]["finish_reason"] == "length"
    assert asking(gateway(), CHATS, {**CHAT, "max_completion_tokens": 2}).json["usage"]["completion_tokens"] == 2


@pytest.mark.parametrize(("stop", "text", "tokens"), [("l", "he", 3), (["lo", "zzz"], "hel", 5), ("nowhere", "hello", 5)])
def test_stop_strings_end_an_answer_before_them(stop, text, tokens):
    for stream in (False, True):
        said = asking(gateway(), COMPLETIONS, {**TEXT, "stop": stop, "stream": stream})
        if stream:
            assert "".join(chunk["choices"][0]["text"] for chunk in said.events[:-1]) == text and said.events[-2]["choices"][0]["finish_reason"] == "stop"
        else:
            assert (said.json["choices"][0]["text"], said.json["usage"]["completion_tokens"]) == (text, tokens)


def test_several_prompts_and_choices_each_with_a_seed_of_its_own():
    client = Client()
    said = asking(gateway(client), COMPLETIONS, {**TEXT, "prompt": ["a", "bc"], "n": 2, "seed": -1})
    assert [choice["index"] for choice in said.json["choices"]] == [0, 1, 2, 3] and said.json["usage"]["prompt_tokens"] == 3
    asked = sorted((len(ids), options["seed"]) for session in client.sessions for ids, options in session.asked)
    assert asked == [(1, 0), (1, 2**63 - 1), (2, 0), (2, 2**63 - 1)]
    streamed = asking(gateway(), CHATS, {**CHAT, "n": 3, "stream": True}).events
    for index in range(3):
        mine = [chunk["choices"][0] for chunk in streamed[:-1] if chunk["choices"][0]["index"] == index]
        assert "".join(choice["delta"].get("content", "") for choice in mine) == "hello" and mine[-1]["finish_reason"] == "stop"


class Parrot(Session):
    async def stream_details(self, ids, **options):
        for id in ids:
            await asyncio.sleep(0)
            yield Token(id)
        yield Token(EOS, None, "stop")


def test_answers_come_in_the_order_of_their_prompts_those_to_one_together():
    client = Client()
    client.ready_session = lambda **_: asyncio.sleep(0, Parrot(b"", None, False))
    said = asking(gateway(client), COMPLETIONS, {**TEXT, "prompt": ["a", "bc"], "n": 2})
    assert [choice["text"] for choice in said.json["choices"]] == ["a", "a", "bc", "bc"]


def test_prompts_may_be_token_ids_and_are_echoed_if_asked():
    assert asking(gateway(), COMPLETIONS, {**TEXT, "prompt": [105, 106], "echo": True}).json["choices"][0]["text"] == "hihello"
    said = asking(gateway(), COMPLETIONS, {**TEXT, "prompt": [[105], [106]], "echo": True, "stream": True})
    for index, text in enumerate(("hhello", "ihello")):
        assert "".join(chunk["choices"][0]["text"] for chunk in said.events[:-1] if chunk["choices"][0]["index"] == index) == text


def test_log_probabilities_in_both_shapes():
    said = asking(gateway(Client("hé")), COMPLETIONS, {**TEXT, "logprobs": 2}).json["choices"][0]["logprobs"]
    assert said["tokens"] == ["h", "�", "�"] and said["token_logprobs"] == [-0.5] * 3 and said["text_offset"] == [0, 1, 2]
    assert said["top_logprobs"][0] == {"h": -0.5, "A": -1.5}
    said = asking(gateway(Client("hé")), CHATS, {**CHAT, "logprobs": True, "top_logprobs": 1}).json["choices"][0]["logprobs"]["content"]
    assert bytes(byte for one in said for byte in one["bytes"]).decode() == "hé" and said[0]["top_logprobs"] == [
        {"token": "h", "logprob": -0.5, "bytes": [104]}
    ]
    streamed = asking(gateway(), CHATS, {**CHAT, "logprobs": True, "stream": True}).events
    assert [one["token"] for chunk in streamed[:-1] for one in (chunk["choices"][0]["logprobs"] or {"content": []})["content"]] == list("hello")


def test_where_tokens_begin_is_the_same_in_a_stream_which_holds_some_back():
    for says, stop in (("abcab", "abd"), ("hé!", None)):
        body = {**TEXT, "stop": stop, "logprobs": 0}
        whole = asking(gateway(Client(says)), COMPLETIONS, body).json["choices"][0]["logprobs"]["text_offset"]
        events = asking(gateway(Client(says)), COMPLETIONS, {**body, "stream": True}).events[:-1]
        assert [at for chunk in events for at in (chunk["choices"][0]["logprobs"] or {"text_offset": []})["text_offset"]] == whole == list(range(len(whole)))


@pytest.mark.parametrize(
    ("path", "body", "words"),
    [
        (CHATS, {**CHAT, "tools": [{"type": "function"}]}, "tools: this gateway has no tools"),
        (CHATS, {**CHAT, "tool_choice": "required"}, "no tools"),
        (CHATS, {**CHAT, "response_format": {"type": "json_object"}}, "response_format: only text is possible"),
        (CHATS, {**CHAT, "logit_bias": {"5": 1}}, "logit_bias: single tokens"),
        (CHATS, {**CHAT, "presence_penalty": 0.5}, "repetition_penalty"),
        (CHATS, {**CHAT, "messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "read text alone"),
        (CHATS, {**CHAT, "messages": [{"role": "tool", "content": "x"}]}, "no tools"),
        (CHATS, {**CHAT, "messages": []}, "messages: List should have at least 1 item"),
        (CHATS, {**CHAT, "temprature": 1}, "no 'temprature' in this request; did you mean temperature?"),
        (CHATS, {**CHAT, "stream_options": {"include_usage": True}}, "only possible with stream"),
        (CHATS, {**CHAT, "top_logprobs": 2}, "only possible with logprobs"),
        (CHATS, {**CHAT, "temperature": 1000}, "temperature: Input should be less than or equal to 100"),
        (CHATS, {**CHAT, "temperature": "warm"}, "temperature: Input should be a valid number"),
        (CHATS, {**CHAT, "n": 0}, "n: "),
        (CHATS, {**CHAT, "max_tokens": 5, "max_completion_tokens": 6}, "something else than max_completion_tokens"),
        (CHATS, {"messages": CHAT["messages"]}, "model: Field required"),
        (COMPLETIONS, {**TEXT, "prompt": ""}, "the prompt is empty"),
        (COMPLETIONS, {**TEXT, "prompt": []}, "at least one prompt"),
        (COMPLETIONS, {**TEXT, "prompt": [[]]}, "the prompt is empty"),
        (COMPLETIONS, {**TEXT, "prompt": [299, 300]}, "no token of this model"),
        (COMPLETIONS, {**TEXT, "prompt": "\ud800"}, "not valid Unicode"),
        (COMPLETIONS, {**TEXT, "suffix": "x"}, "suffix: text can be gone on with"),
        (COMPLETIONS, {**TEXT, "best_of": 3}, "best_of: answers are not ranked"),
        (COMPLETIONS, {**TEXT, "echo": True, "logprobs": 1}, "leave out echo or logprobs"),
        (COMPLETIONS, {**TEXT, "stop": [""]}, "stop: "),
        (COMPLETIONS, {**TEXT, "prompt": ["a"] * 5, "n": 16}, "80 answers in one request are too many"),
    ],
)
def test_what_is_not_possible_is_refused_with_the_reason(path, body, words):
    client = Client()
    said = asking(gateway(client), path, body)
    assert said.status == 400 and words in said.error["message"] and said.error["type"] == "invalid_request_error"
    assert not client.sessions, "nobody was asked"


def test_what_asks_for_nothing_or_only_speaks_of_the_caller_is_passed_over():
    harmless = {"tools": None, "tool_choice": "none", "response_format": {"type": "text"}, "logit_bias": {}, "presence_penalty": 0, "frequency_penalty": 0.0}
    said = asking(gateway(), CHATS, {**CHAT, **harmless, "user": "u", "metadata": {}, "store": False, "temperature": None, "stop": None, "n": None})
    assert said.status == 200


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b"5", b'{"model": "m"', b"\xff\xfe"])
def test_a_body_that_is_none_is_refused(raw):
    said = asking(gateway(), CHATS, raw=raw)
    assert said.status == 400 and said.error["message"]


def test_json_in_disguise_is_refused_so_that_no_page_can_ask_without_being_allowed():
    said = asking(gateway(), COMPLETIONS, TEXT, content_type="text/plain")
    assert said.status == 400 and "Content-Type: application/json" in said.error["message"]


def test_a_body_without_end_is_refused():
    assert asking(gateway(), COMPLETIONS, {**TEXT, "prompt": "x" * (9 * 2**20)}).status == 413


def test_a_prompt_that_is_too_long_says_so_in_the_words_that_clients_know():
    said = asking(gateway(), COMPLETIONS, {**TEXT, "prompt": "x" * 1200})
    assert (said.status, said.error["code"]) == (400, "context_length_exceeded")


def test_long_prompts_are_made_tokens_beside_the_event_loop(monkeypatch):
    threads: list[bool] = []
    encode = Client.text.encode
    monkeypatch.setattr(
        Client.text, "encode", lambda prompt: threads.append(threading.current_thread() is threading.main_thread()) or encode(prompt), raising=False
    )
    for prompt in ("short", "x" * 30_000):
        asking(gateway(), COMPLETIONS, {**TEXT, "prompt": prompt})
        asking(gateway(), CHATS, {**CHAT, "messages": [{"role": "user", "content": prompt}]})
    assert threads == [True, True, False, False]


def test_another_model_and_another_path():
    said = asking(gateway(), COMPLETIONS, {**TEXT, "model": "gpt"})
    assert (said.status, said.error["code"], said.error["param"]) == (404, "model_not_found", "model") and "serves m" in said.error["message"]
    assert asking(gateway(), "/v1/models").json["data"][0]["id"] == "m"
    assert asking(gateway(), "/v1/models/models/m").json["id"] == "models/m" and asking(gateway(), "/v1/models/x").status == 404
    assert asking(gateway(), "/v2").error["code"] == "not_found" and asking(gateway(), "/health", method="DELETE").status == 405


ERRORS = [
    (MissingLayers("layers 4:8 are served by nobody", layers="4:8", memory=5), 503, "missing_layers"),
    (Refused("full", "overloaded", retry_after=2.2), 429, "overloaded"),
    (Refused("no", "refused"), 503, "refused"),
    (PeerLost("lost, or resume the session"), 503, "peer_lost"),
    (TimedOut("late"), 504, "timeout"),
    (Closed("closed"), 503, "closed"),
    (SwarmError("our daemon ended"), 503, "swarm_error"),
]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("error", "status", "code"), ERRORS, ids=lambda value: type(value).__name__)
def test_what_fails_before_the_first_token_has_a_status(error, status, code, stream):
    for client in (Client(refuses=error), Client("", breaks=error)):
        said = asking(gateway(client), CHATS, {**CHAT, "stream": stream})
        assert (said.status, said.error["code"]) == (status, code) and "resume" not in said.error["message"]
        assert all(session.closed for session in client.sessions)
        if status in (429, 503):
            assert int(said.headers["retry-after"]) == (3 if status == 429 else 5)
        if status == 503 and code == "missing_layers":
            assert said.error["layers"] == "4:8" and said.error["memory"] == 5


@pytest.mark.parametrize(("error", "status", "code"), ERRORS, ids=lambda value: type(value).__name__)
def test_an_answer_that_breaks_off_never_says_that_it_is_done(error, status, code):
    it = gateway(Client("hel", breaks=error))
    said = asking(it, CHATS, {**CHAT, "stream": True})
    *chunks, last = said.events
    assert said.status == 200 and last["error"]["code"] == code
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None] * len(chunks) and b"[DONE]" not in said.body
    assert b'swarm_gateway_interrupted_total{code="%s"} 1.0' % code.encode() in it.meters.text()
    whole = asking(gateway(Client("hel", breaks=error)), CHATS, {**CHAT, "n": 2})
    assert whole.status == status and all("hel".startswith(text) for text in whole.error["partial"]) and "choices" not in whole.json


def test_peers_that_do_not_suit_the_gateway_are_not_the_callers_fault():
    said = asking(gateway(Client(refuses=UsageError("peers serve another revision"))), CHATS, CHAT)
    assert (said.status, said.error["code"]) == (503, "not_served")


def test_a_bug_is_told_without_its_insides(caplog):
    said = asking(gateway(Client("", breaks=ZeroDivisionError("secret"))), CHATS, CHAT)
    assert said.status == 500 and "this is a bug: ZeroDivisionError" in said.error["message"] and b"secret" not in said.body
    assert "nobody foresaw" in caplog.text


def test_the_time_allowed_for_an_answer_counts_from_when_it_was_asked_for():
    async def main() -> tuple[Client, list]:
        client, allowed = Client(), []
        ready = client.ready_session

        async def slow(*, timeout: float | None = None):
            allowed.append(timeout)
            await asyncio.sleep(2.0)
            return await ready()

        client.ready_session = slow
        await ask(build(gateway(client, timeout=5.0)), CHATS, CHAT)
        await ask(build(gateway(client)), CHATS, CHAT)
        return client, allowed

    client, allowed = run(main())
    assert allowed == [5.0, None] and [session.asked[0][1].get("timeout") for session in client.sessions] == [3.0, None]


@pytest.mark.parametrize("body", [CHAT, {**CHAT, "stream": True}, {**CHAT, "n": 3, "stream": True}, {**CHAT, "n": 3}])
def test_a_client_that_leaves_ends_its_sessions(body):
    async def main() -> list[bool]:
        client = Client(stands=True)
        it = gateway(client)
        async with asyncio.timeout(30):
            await ask(build(it), CHATS, body, leaves_after=1 if body.get("stream") else 0)
        assert it.running == 0, "its room is free again"
        return [session.closed for session in client.sessions]

    assert asyncio.run(main()) == [True] * body.get("n", 1)


def test_a_stream_that_stands_still_says_that_it_is_there_before_a_proxy_cuts_it():
    said = run(ask(build(gateway(Client("h", stands=True))), COMPLETIONS, {**TEXT, "stream": True}, leaves_after=3))
    assert said.body.endswith(b": still there\n\n" * 2) and len(said.events) == 1


def test_who_comes_when_all_places_are_taken_is_told_to_come_again():
    async def main() -> None:
        it = gateway(Client(stands=True), most=2)
        app = build(it)
        waiting = asyncio.create_task(ask(app, CHATS, {**CHAT, "n": 2}))
        for _ in range(20):
            await asyncio.sleep(0)
        assert it.running == 2
        said = await ask(app, CHATS, CHAT)
        assert (said.status, said.error["code"], said.headers["retry-after"]) == (429, "busy", "1")
        waiting.cancel()
        await asyncio.wait({waiting})
        assert it.running == 0

    asyncio.run(main())


def test_more_answers_than_ever_run_at_once_are_no_reason_to_come_again():
    said = asking(gateway(most=2), CHATS, {**CHAT, "n": 3})
    assert said.status == 400 and "3 answers in one request are too many; 2 are possible" in said.error["message"] and "retry-after" not in said.headers
    assert asking(gateway(most=2), CHATS, {**CHAT, "n": 2}).status == 200


def test_keys_open_what_they_should_and_nothing_opens_without():
    it = gateway(keys=keys("correct horse", "other key 2"))
    for path in ("/v1/models", "/swarm.json", "/metrics"):
        assert asking(it, path).error["code"] == "missing_api_key"
        said = asking(it, path, authorization="Bearer wrong")
        assert (said.status, said.error["code"], said.headers["www-authenticate"]) == (401, "invalid_api_key", "Bearer")
        assert asking(it, path, authorization="Bearer other key 2").status == 200
    latin = gateway(keys=keys("schlüssel"))  # sent in UTF-8, and read by the server as Latin-1
    for shown, status in (("schlüssel", 200), ("schl?ssel", 401)):
        assert asking(latin, "/v1/models", authorization=f"Bearer {shown}").status == status
    assert asking(it, CHATS, CHAT).status == 401 and asking(it, CHATS, CHAT, authorization="Bearer correct horse").status == 200
    assert asking(it, "/").status == asking(it, "/health").status == 200


def test_without_keys_no_page_can_ask_by_a_name_of_its_own():
    it = gateway(host="swarm.lan")
    for host in ("localhost:8000", "127.0.0.1:8000", "[::1]:8000", "192.168.1.7", "SWARM.lan:8000"):
        assert asking(it, "/v1/models", host=host).status == asking(it, "/swarm.json", host=host).status == 200
    for host in ("evil.example:8000", "localhost.evil.example", "127.0.0.1.evil.example", "evil.example:127.0.0.1", ""):
        said = asking(it, COMPLETIONS, TEXT, host=host)
        assert said.status == 421 and said.error["code"] == "misdirected_request" and "--api-keys" in said.error["message"]
    assert asking(gateway(keys=keys("correct horse")), "/v1/models", host="evil.example", authorization="Bearer correct horse").status == 200


def test_keys_from_a_file(tmp_path):
    path = tmp_path / "keys"
    path.write_text("# ours\nfirst-key-1  # Ada's\n\nsecond-key\n")
    read = Keys.read(str(path))
    read.admit("first-key-1")
    read.admit("second-key")
    for text in ("", "# none", "short"):
        path.write_text(text)
        with pytest.raises(InvalidConfig):
            Keys.read(str(path))
    with pytest.raises(InvalidConfig, match="cannot read the keys"):
        Keys.read(str(tmp_path / "none"))


def test_pages_from_elsewhere_ask_only_if_allowed():
    assert "access-control-allow-origin" not in asking(gateway(), "/v1/models", origin="https://a.example").headers
    it = gateway(origins=("https://a.example",))
    assert asking(it, "/v1/models", origin="https://a.example").headers["access-control-allow-origin"] == "https://a.example"
    assert "access-control-allow-origin" not in asking(it, "/v1/models", origin="https://b.example").headers
    preflight = {"access_control_request_method": "POST", "access_control_request_headers": "authorization,content-type", "origin": "https://a.example"}
    assert asking(it, CHATS, method="OPTIONS", **preflight).status == 200


def test_pages_that_may_ask_are_told_of_bugs_too():
    it = gateway(client := Client(), origins=("https://a.example",))
    client.check_tokens = lambda *_, **options: 1 / 0
    said = asking(it, CHATS, CHAT, origin="https://a.example")
    assert said.status == 500 and said.error["code"] == "bug" and said.headers["access-control-allow-origin"] == "https://a.example"


def test_health_says_whether_the_swarm_can_answer():
    said = asking(gateway(), "/health")
    assert said.status == 200 and said.json["status"] == "ok"
    said = asking(gateway(view=lambda: seen((0, 2))), "/health")
    assert said.status == 503 and said.json["missing"] == "1:2" and "swarm-serve --layers 1:2" in said.json["sentence"]


def test_metrics_count_requests_tokens_and_the_swarm():
    async def main() -> str:
        it = gateway(view=lambda: seen((0, 2), (0, 3)))
        app = build(it)
        for body in (CHAT, {**CHAT, "stream": True}, {**CHAT, "n": 0}):
            await ask(app, CHATS, body)
        await ask(app, "/no/such/path/1")
        await it.lookout.now()
        return (await ask(app, "/metrics")).body.decode()

    text = asyncio.run(main())
    assert 'swarm_gateway_requests_total{path="/v1/chat/completions",status="200"} 2.0' in text
    assert 'swarm_gateway_requests_total{path="/v1/chat/completions",status="400"} 1.0' in text
    assert 'path="other",status="404"' in text and "no/such" not in text
    assert "swarm_gateway_tokens_total 10.0" in text and "swarm_gateway_first_token_seconds_count 2.0" in text
    assert 'swarm_peers{state="online"} 2.0' in text and "swarm_missing_components 1.0" in text and "swarm_thin_components 1.0" in text


def test_a_bug_is_counted_as_one():
    it = gateway(client := Client())
    client.check_tokens = lambda *_, **options: 1 / 0
    with contextlib.suppress(ZeroDivisionError):  # which the server logs
        asking(it, CHATS, CHAT)
    assert b'requests_total{path="/v1/chat/completions",status="500"} 1.0' in it.meters.text() and b'status="499"' not in it.meters.text()


def test_the_view_is_served_with_what_it_shows_and_may_load_nothing_else():
    it = gateway()
    page = asking(it, "/")
    assert page.status == 200 and "text/html" in page.headers["content-type"] and "default-src 'none'" in page.headers["content-security-policy"]
    assert asking(it, "/view.js").status == asking(it, "/view.css").status == 200
    said = asking(it, "/swarm.json").json
    assert said["overview"]["covers"][0]["holders"] == [1, 1, 1, 1] and said["gateway"]["chat"] is True and said["gateway"]["model"] == "m"
    client = Client()
    client.text = SimpleNamespace(chats=False)
    assert asking(gateway(client), "/swarm.json").json["gateway"]["chat"] is False, "its chat box must ask for completions"


def test_tokens_a_second_are_those_of_the_bars_that_are_over():
    rate = Rate()
    for now, tokens in ((0.5, 10), (1.9, 2), (2.1, 4), (4.5, 100)):
        rate.add(now, tokens)
    assert rate.recent(4.6)[-2:] == [6.0, 2.0] and len(rate.recent(4.6)) == BARS and rate.total == 116
    assert rate.recent(8.0)[-4:] == [6.0, 2.0, 50.0, 0.0] and not any(rate.recent(1000.0))


def test_pictures_are_shared_by_those_who_look_at_the_same_time():
    async def main() -> int:
        looks = 0

        def view():
            nonlocal looks
            looks += 1
            return seen((0, 4))

        it = gateway(view=view)
        await asyncio.gather(*(ask(build(it), "/swarm.json") for _ in range(5)))
        return looks

    assert asyncio.run(main()) == 1


@pytest.mark.parametrize(
    ("model", "name", "expected"),
    [
        ("Qwen/Qwen3-8B", None, ("Qwen/Qwen3-8B", ())),
        ("/models/tiny/", None, ("tiny", ("/models/tiny/",))),
        ("./tiny", "mine", ("mine", ("./tiny",))),
        ("swarm/demo/model", None, ("model", ("swarm/demo/model",))),
    ],
)
def test_what_a_model_is_called(model, name, expected):
    assert names(model, name) == expected
