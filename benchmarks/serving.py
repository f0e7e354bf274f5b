"""Many clients of one server: ``python -m benchmarks.serving``.

Eight clients ask `dexar-fast serve` fifty times each, over loopback, half of them for streams. Two more go away in the
middle, and two read nothing. Every answer is compared with what `explain` gives here; the server's memory is watched.
The table goes into docs/serving.md; a wrong answer is an exit code of 1.
"""

from __future__ import annotations

import argparse
import base64
import http.client
import json
import re
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import torch

from dexar_fast import Explainer
from dexar_fast.demo.scenes import draw_scene

from .files import RESULTS, ROOT, put_between_markers, write_results
from .timing import described, environment, slug

PAGE = ROOT / "docs" / "serving.md"
CLIENTS, GONE, SLOW, SCENES, TOKENS = 8, 2, 2, 4, 8
PROMPT = "describe the image"


@dataclass
class Load:
    """What the clients saw; lists grow from many threads, which Python's `append` allows."""

    port: int
    bodies: list[bytes]
    expected: list[list[tuple[str, float]]]
    seconds: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    full: list[int] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)

    def client(self, number: int, requests: int) -> None:
        """Asks one request after the other, and comes again where the line is full."""
        for turn in range(requests):
            scene, stream = (number + turn) % SCENES, bool((number + turn) % 2)
            start = time.monotonic()
            while (found := self.ask(scene, "/stream" if stream else "/explain")) is None:
                self.full.append(number)
                time.sleep(0.2)
            self.seconds.append(time.monotonic() - start)
            if not alike(words_of(found), self.expected[scene]):
                self.wrong.append(f"client {number}, request {turn}: {words_of(found)}")

    def ask(self, scene: int, path: str) -> Any:
        """The answer, None where the line is full."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        try:
            connection.request("POST", path, self.bodies[scene], {"content-type": "application/json"})
            response = connection.getresponse()
            body = response.read()
        finally:
            connection.close()
        if response.status == 503:
            return None
        if response.status != 200:
            return {"words": [{"text": body.decode(), "grounding": 0.0}]}
        return json.loads(body.rpartition(b"data: ")[2] if path == "/stream" else body)

    def gone(self) -> None:
        """Asks for streams and goes away after a moment."""
        while not self.over.wait(0.3):
            with suppress(OSError), self.asked() as sock:
                sock.recv(1000)

    def slow(self) -> None:
        """Asks for a stream and reads nothing of it."""
        with suppress(OSError), self.asked() as sock:
            self.over.wait()
            sock.recv(1)

    def asked(self) -> socket.socket:
        """A connection with little room, with a request on it."""
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        sock.connect(("127.0.0.1", self.port))
        head = "POST /stream HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: "
        sock.sendall(f"{head}{len(self.bodies[0])}\r\n\r\n".encode() + self.bodies[0])
        return sock


def words_of(answer: Any) -> list[tuple[str, float]]:
    return [(word["text"], word["grounding"]) for word in answer["words"]]


def alike(found: list[tuple[str, float]], expected: list[tuple[str, float]]) -> bool:
    """Whether the words are the same and grounding is, up to rounding."""
    same = [text for text, _ in found] == [text for text, _ in expected]
    return same and all(abs(one - other) < 1e-3 for (_, one), (_, other) in zip(found, expected))


def memory(process: int) -> float:
    """MiB that a process holds."""
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{process}/status").read_text(encoding="ascii"))
    assert found is not None
    return int(found[1]) / 1024


def run(requests: int) -> dict[str, Any]:
    """Start a server, load it, stop it."""
    explainer = Explainer.from_pretrained("demo", device="cpu", self_test=False)
    scenes = [draw_scene(seed).image for seed in range(SCENES)]
    asked = {"prompt": PROMPT, "max_new_tokens": TOKENS}
    expected = [words_of(explainer.explain(scene, grounding=True, **asked).to_dict()) for scene in scenes]  # type: ignore[arg-type]
    bodies = []
    for scene in scenes:
        file = BytesIO()
        scene.save(file, "PNG")
        bodies.append(json.dumps({**asked, "image": base64.b64encode(file.getvalue()).decode()}).encode())
    command = [sys.executable, "-m", "dexar_fast", "serve", "--port", "0", "--quiet", "--queue", "6"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        load = Load(int(server.stdout.readline().strip().rpartition(":")[2]), bodies, expected)
        others = [threading.Thread(target=load.gone) for _ in range(GONE)]
        others += [threading.Thread(target=load.slow) for _ in range(SLOW)]
        clients = [threading.Thread(target=load.client, args=(number, requests)) for number in range(CLIENTS)]
        start = time.monotonic()
        for thread in [*others, *clients]:
            thread.start()
        held = []
        while any(thread.is_alive() for thread in clients):
            held.append(memory(server.pid))
            time.sleep(0.5)
        seconds = time.monotonic() - start
        load.over.set()
        for thread in others:
            thread.join()
        server.send_signal(signal.SIGINT)
        server.wait(60)
    return {
        "requests": CLIENTS * requests,
        "answered": len(load.seconds),
        "wrong": load.wrong,
        "told_to_come_again": len(load.full),
        "per_second": len(load.seconds) / seconds,
        "median_seconds": statistics.median(load.seconds),
        "worst_seconds": max(load.seconds),
        "mib_after_a_third": held[len(held) // 3],
        "mib_at_the_end": held[-1],
        "environment": environment("cpu"),
    }


def table(found: dict[str, Any]) -> str:
    """For docs/serving.md."""
    rows = [
        ("clients; besides: going away, reading nothing", f"{CLIENTS}; {GONE}, {SLOW}"),
        ("requests, answered", f"{found['requests']}, {found['answered']}"),
        ("wrong answers", len(found["wrong"])),
        ("told to come again (503)", found["told_to_come_again"]),
        ("answers per second", f"{found['per_second']:.1f}"),
        ("seconds to an answer: median, worst", f"{found['median_seconds']:.2f}, {found['worst_seconds']:.2f}"),
        (
            "memory: after a third, at the end",
            f"{found['mib_after_a_third']:.0f} MiB, {found['mib_at_the_end']:.0f} MiB",
        ),
    ]
    lines = ["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)]
    return "\n".join([*lines, "", f"The embedded model, {TOKENS} tokens. On {described(found['environment'])}."])


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving", description=__doc__)
    parser.add_argument("--requests", type=int, default=50, help="of each client (default 50)")
    parser.add_argument("--out", type=Path, help="file for the counts; else those of the documentation")
    asked = parser.parse_args(arguments)
    torch.set_num_threads(1)
    found = run(asked.requests)
    write_results(asked.out or RESULTS / f"serving-{slug(found['environment'])}.json", found)
    if asked.out is None:
        put_between_markers(PAGE, "serving", table(found))
    print(table(found))
    for error in found["wrong"][:10]:
        print(error, file=sys.stderr)
    sys.exit(1 if found["wrong"] or found["answered"] < found["requests"] else 0)


if __name__ == "__main__":
    main(sys.argv[1:])
