"""The web service: what `explain` gives, within limits, whatever other clients do."""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("fastapi", reason="tests of the service need FastAPI (pip install dexar-fast[serve])")
pytest.importorskip("uvicorn", reason="tests of the service need uvicorn (pip install dexar-fast[serve])")

from dexar_fast import Explainer, InputError
from dexar_fast.demo.scenes import draw_scene
from dexar_fast.serve import Limits, create_app

from .serving import PATIENCE, Served, events, form, png, serving

PROMPT = "describe the image"
ANSWER = "a large red star"
SCENE = draw_scene(7).image
FILE = png(SCENE)
PICTURE = base64.b64encode(FILE).decode()
LIMITS = Limits(queue=2, most_bytes=1 << 20, most_pixels=100_000, most_images=2, most_characters=500, most_tokens=24)


@pytest.fixture(scope="module")
def explainer() -> Explainer:
    return Explainer.from_pretrained("demo", device="cpu", self_test=False)


@pytest.fixture(scope="module")
def server(explainer):
    with serving(explainer, LIMITS) as served:
        yield served


@pytest.fixture(scope="module")
def expected(explainer):
    return explainer.explain(SCENE, PROMPT, ANSWER, grounding=True).to_dict(maps="png")


def without_shared(answer: dict[str, Any]) -> dict[str, Any]:
    """What a result says of the answer: settings record how it was asked."""
    return {name: value for name, value in answer.items() if name not in ("settings", "beside", "prompt")}


def test_json_gets_what_explain_gives(server, explainer, expected):
    found = server.post("/explain", image=PICTURE, prompt=PROMPT, answer=ANSWER)
    assert found.status == 200
    assert without_shared(found.json) == without_shared(expected)
    other = explainer.explain(SCENE, PROMPT, ANSWER, grounding=True).of_method("dexar").to_dict(maps="png")
    (beside,) = found.json["beside"]
    assert beside["words"] == other["words"]
    assert beside["method"] == "dexar"


def test_a_form_gets_the_same(server, expected):
    body, kind = form(("image", FILE), ("prompt", PROMPT.encode()), ("answer", ANSWER.encode()), ("grounding", b"true"))
    found = server.ask("POST", "/explain", body, content_type=kind)
    assert without_shared(found.json) == without_shared(expected)


def test_messages_and_answer_ids_get_the_same(server, expected):
    ids = [token["token_id"] for token in expected["tokens"]]
    uri = f"data:image/png;base64,{PICTURE}"
    parts = [{"type": "image_url", "image_url": {"url": uri}}, {"type": "text", "text": PROMPT}]
    found = server.post("/explain", messages=[{"role": "user", "content": parts}], answer_ids=ids)
    assert found.status == 200, found.body
    assert without_shared(found.json) == without_shared(expected)


@pytest.mark.parametrize("maps", ["png", "list", None])
def test_maps_come_as_asked(server, explainer, maps):
    found = server.post("/explain", image=PICTURE, prompt=PROMPT, answer=ANSWER, maps=maps, method="dexar").json
    truth = explainer.explain(SCENE, PROMPT, ANSWER, method="dexar").answer_map
    if maps is None:
        assert "answer_maps" not in found
        assert "maps" not in found["words"][0]
    elif maps == "list":
        np.testing.assert_allclose(found["answer_maps"][0], truth, atol=1e-4)
    else:
        grey = Image.open(BytesIO(base64.b64decode(found["answer_maps"][0])))
        np.testing.assert_allclose(np.asarray(grey) / 255, truth, atol=1 / 500)


def test_a_stream_gives_each_token_and_then_what_explain_gives(server, explainer):
    truth = explainer.explain(SCENE, PROMPT, max_new_tokens=5, grounding=True).to_dict(maps="png")
    found = server.post("/stream", image=PICTURE, prompt=PROMPT, max_new_tokens=5)
    assert found.headers["content-type"].startswith("text/event-stream")
    *tokens, (name, done) = events(found.body)
    assert [(kind, token["index"]) for kind, token in tokens] == [("token", i) for i in range(5)]
    assert "".join(token["text"] for _, token in tokens) == truth["answer"]
    assert tokens[0][1]["beside"].keys() == {"dexar"}
    assert tokens[0][1]["grids"] == truth["grids"]
    assert name == "done"
    assert [word["text"] for word in done["words"]] == [word["text"] for word in truth["words"]]
    for mine, its in zip(done["words"], truth["words"], strict=True):
        assert mine["grounding"] == pytest.approx(its["grounding"], abs=1e-4)


@pytest.mark.parametrize(
    "option",
    [
        {"method": "nonsense"},
        {"layers": 99},
        {"layers": []},
        {"normalization": "mine"},
        {"text_set": "all"},
        {"targets": "letters"},
        {"contrast": "", "targets": "words"},
        {"thumbnail": "maybe"},
        {"only": "first"},
        {"only": [3, 90]},
        {"max_new_tokens": 0},
        {"background": "no colour"},
        {"answer": ""},
        {"prompt": ""},
    ],
    ids=str,
)
def test_an_unusable_option_is_told_as_explain_tells_it(server, explainer, option):
    asked = {"prompt": PROMPT, "answer": ANSWER, **option}
    with pytest.raises(InputError) as error:
        explainer.explain(SCENE, **asked)
    found = server.post("/explain", image=PICTURE, **asked)
    assert (found.status, found.json) == (422, {"error": {"type": "InputError", "message": str(error.value)}})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"image": "/etc/passwd"}, "image: expected the bytes of a file as base64"),
        ({"image": "etc/hostname"}, "image: "),  # base64 by chance
        ({"image": "http://127.0.0.1/x.png"}, "fetches no URLs"),
        ({"image": None}, "image: expected a picture"),
        ({"image": [PICTURE] * 3}, "image: expected at most 2; got 3"),
        ({"image": base64.b64encode(png(Image.new("RGB", (400, 300)))).decode()}, "got 400 x 300"),
        ({"messages": [{"role": "user", "content": [{"type": "image", "path": "/etc/hosts"}]}], "prompt": None,
          "image": None}, "image: "),
        ({"prompt": "a" * 501}, "prompt: expected at most 500 characters"),
        ({"max_new_tokens": 25}, "max_new_tokens: expected at most 24; got 25"),
        ({"answer_ids": [1] * 25}, "answer: expected at most 24 tokens; got 25"),
        ({"answer": "red " * 30}, "answer: expected at most 24 tokens; got 30"),
        ({"answer_ids": [1 << 40]}, "expected ids from 0 to"),
        ({"answer": "a", "answer_ids": [5]}, "got both"),
        ({"row_chunk": 1}, "row_chunk: no such field"),
        ({"grounding": "yes"}, "grounding: "),
        ({"targets": [[0]]}, "targets: "),
    ],
    ids=["path", "path-like-base64", "url", "no-picture", "many", "pixels", "path-in-messages", "long-prompt",
         "long-answer", "many-ids", "many-tokens", "no-such-id", "answer-twice", "unknown", "type", "span"],
)  # fmt: skip
def test_what_a_client_may_not_ask_is_named(server, fields, message):
    found = server.post("/explain", **{"image": PICTURE, "prompt": PROMPT, **fields})
    assert (found.status, found.json["error"]["type"]) == (422, "InputError")
    assert message in found.error


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b"{" * 100_000, {"content_type": "application/json"}, 422),
        (b"[]", {"content_type": "application/json"}, 422),
        (b"\xff", {"content_type": "application/json"}, 422),
        (b"nothing", {"content_type": "multipart/form-data; boundary=cut"}, 422),
        (b"nothing", {"content_type": "multipart/form-data"}, 422),
        (b"a=b", {"content_type": "application/x-www-form-urlencoded"}, 415),
        (b" " * (1 << 20) + b"{}", {"content_type": "application/json"}, 413),
        (b"{}", {"content_type": "application/json", "origin": "http://elsewhere.example"}, 403),
        (b"{}", {"content_type": "application/json", "host": "elsewhere.example"}, 400),
    ],
    ids=["deep", "list", "bytes", "no-parts", "no-boundary", "urlencoded", "large", "other-site", "other-host"],
)
def test_a_body_that_is_none_is_refused(server, body, headers, status):
    assert server.ask("POST", "/explain", body, **headers).status == status


def test_a_large_body_without_a_length_is_refused(server):
    connection = server.connect()
    connection.request("POST", "/explain", iter([b" " * 70_000] * 20), {"content-type": "application/json"})
    assert connection.getresponse().status == 413
    connection.close()


def test_a_full_line_tells_when_to_come_again(server, explainer):
    with ThreadPoolExecutor() as pool:
        with explainer.turn():
            asked = [
                pool.submit(server.post, "/explain", image=PICTURE, prompt=PROMPT, answer=ANSWER) for _ in range(3)
            ]
            server.until(busy=True, waiting=2)
            for path in ("/explain", "/stream"):
                refused = server.post(path, image=PICTURE, prompt=PROMPT)
                assert refused.status == 503
                assert int(refused.headers["retry-after"]) >= 1
        assert [each.result().status for each in asked] == [200] * 3


@pytest.mark.parametrize("path", ["/explain", "/stream"])
def test_who_goes_away_leaves_the_line(server, explainer, path):
    body = json.dumps({"image": PICTURE, "prompt": PROMPT}).encode()
    before = server.count(path, 499)
    with explainer.turn():
        gone = [server.connect() for _ in range(2)]
        for connection, waiting in zip(gone, (0, 1)):
            connection.request("POST", path, body, {"content-type": "application/json"})
            server.until(busy=True, waiting=waiting)
        gone[1].close()
        server.until(waiting=0)
        gone[0].close()
        if path == "/explain":  # ends also what has the model, at its next step
            server.until(busy=False)
    server.until(busy=False, waiting=0)
    assert server.count(path, 499) - before >= 1


def test_what_takes_too_long_ends(explainer):
    with serving(explainer, Limits(seconds=1)) as served:
        with explainer.turn():
            late = served.post("/explain", image=PICTURE, prompt=PROMPT)
            assert (late.status, late.json["error"]["type"]) == (504, "TimeoutError")
        assert served.post("/explain", image=PICTURE, prompt=PROMPT, max_new_tokens=2).status == 200


def test_a_body_that_does_not_come_ends(explainer):
    head = (
        b"POST /explain HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{"
    )
    with (
        serving(explainer, Limits(transfer_seconds=1)) as served,
        socket.create_connection(("127.0.0.1", served.port), timeout=PATIENCE) as slow,
    ):
        slow.sendall(head)
        assert b" 408 " in slow.recv(1000)


def test_a_stream_that_nobody_reads_holds_up_nobody(server):
    body = json.dumps({"image": PICTURE, "prompt": PROMPT, "max_new_tokens": 24}).encode()
    slow = server.connect()
    slow.sock = socket.socket()
    slow.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    slow.sock.connect(("127.0.0.1", server.port))
    slow.request("POST", "/stream", body, {"content-type": "application/json"})
    for _ in range(2):
        assert server.post("/explain", image=PICTURE, prompt=PROMPT, answer=ANSWER).status == 200
    server.until(busy=False)
    slow.close()


def test_an_error_in_the_middle_of_a_stream_is_an_event(server, explainer, monkeypatch):
    from dexar_fast.runs.stream import ExplainingStreamer

    explain = ExplainingStreamer._explain

    def fails(self: Any, **how: Any) -> None:
        if self._n_explained == 2:
            raise RuntimeError("secret")
        explain(self, **how)

    monkeypatch.setattr(ExplainingStreamer, "_explain", fails)
    found = server.post("/stream", image=PICTURE, prompt=PROMPT, max_new_tokens=5)
    names, last = [name for name, _ in events(found.body)], events(found.body)[-1][1]
    assert names == ["token", "token", "error"]
    assert "internal error" in last["error"]["message"]
    assert b"secret" not in found.body
    server.until(busy=False)


def test_many_clients_get_their_own_answers(server, explainer):
    """Eight, some of which go away or read slowly; tried again where the line was full."""
    scenes = [draw_scene(seed).image for seed in range(3)]
    files = [base64.b64encode(png(scene)).decode() for scene in scenes]
    truth = [explainer.explain(scene, PROMPT, max_new_tokens=4, grounding=True).to_dict() for scene in scenes]
    wrong: list[str] = []

    def client(number: int) -> None:
        for turn in range(3):
            scene = (number + turn) % 3
            asked = {"image": files[scene], "prompt": PROMPT, "max_new_tokens": 4}
            if number == 0:  # goes away
                connection = server.connect()
                connection.request("POST", "/stream", json.dumps(asked), {"content-type": "application/json"})
                time.sleep(0.01 * turn)
                connection.close()
                continue
            while (found := server.post("/stream" if number % 2 else "/explain", **asked)).status == 503:
                time.sleep(0.05)
            answer = events(found.body)[-1][1] if number % 2 else found.json
            words = [(word["text"], round(word["grounding"], 3)) for word in answer["words"]]
            if words != [(word["text"], round(word["grounding"], 3)) for word in truth[scene]["words"]]:
                wrong.append(f"client {number}: {words}")

    threads = [threading.Thread(target=client, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive()
    assert wrong == []
    server.until(busy=False, waiting=0)
    assert not [thread for thread in threading.enumerate() if thread.name == "dexar-fast stream"]


def test_the_page_allows_nothing_but_its_own_files(server):
    page = server.get("/")
    assert page.status == 200
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert b"innerHTML" not in server.get("/page.js").body


def test_health_metrics_and_schema(server, explainer):
    assert server.get("/health").json["model"] == explainer.model_name
    before = server.count("/explain", 422)
    server.post("/explain")
    assert server.count("/explain", 422) == before + 1
    server.get("/no/such/place")
    assert b"/no/such" not in server.get("/metrics").body
    schema = server.get("/openapi.json").json["paths"]["/explain"]["post"]["requestBody"]
    assert "max_new_tokens" in json.dumps(schema)


def test_an_explainer_without_a_processor_is_refused(explainer):
    with pytest.raises(InputError, match="processor"):
        create_app(Explainer(explainer.model))


@pytest.mark.parametrize(("name", "value"), [("queue", -1), ("most_bytes", 0), ("seconds", float("nan"))])
def test_limits_that_let_nothing_through_are_refused(name, value):
    with pytest.raises(InputError, match=name):
        Limits(**{name: value})


def test_the_command_serves_until_ctrl_c(root):
    command = [sys.executable, "-m", "dexar_fast", "serve", "--port", "0", "--quiet"]
    with subprocess.Popen(command, cwd=root, env={**os.environ}, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        assert address.startswith("http://127.0.0.1:")
        assert Served(int(address.rpartition(":")[2])).get("/health").json["status"] == "ok"
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == 130


def test_a_port_that_is_taken_is_one_line(run_python):
    code = """
    import socket
    from dexar_fast.errors import InputError
    from dexar_fast.serve.run import _listening
    with socket.create_server(("127.0.0.1", 0)) as taken:
        try:
            _listening("127.0.0.1", taken.getsockname()[1], 1)
        except InputError as error:
            print(error)
    """
    from textwrap import dedent

    assert run_python(dedent(code)).startswith("host, port: cannot listen at 127.0.0.1:")
