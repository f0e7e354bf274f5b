"""The HTML report of a very long answer in a browser: ``python -m benchmarks.run report``.

Writes the report of a made-up explanation (random maps of 24 x 24 cells, words of one to four tokens), opens it in
headless Chromium, scrolls it from top to bottom, and steps through its tokens and words once a frame. Frames that come
late while nothing is done are the machine's; the main thread's time is that of its own work, whatever else runs.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dexar_fast.layout.grid import whole_image
from dexar_fast.result.explanation import Explanation, minmax

from .files import RESULTS, ROOT, put_between_markers, write_results
from .timing import environment, slug

if TYPE_CHECKING:
    from playwright.sync_api import Browser, CDPSession, Page

PAGE = ROOT / "docs" / "benchmarks.md"
CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FRAME_BUDGET_MS, OPEN_BUDGET_MS = 20, 2000
OPENINGS = 5

# Runs before the page's own script. Interactive: that script has run, and a frame has been drawn since.
WATCH = """
  window.longTasks = [];
  new PerformanceObserver((list) => longTasks.push(...list.getEntries().map((one) => one.duration)))
    .observe({ type: "longtask", buffered: true });
  addEventListener("DOMContentLoaded", () => requestAnimationFrame(() => setTimeout(() => {
    window.interactive = performance.now();
  })));
"""

# Milliseconds between frames, while one step is taken in each.
FRAMES = """async ([action, count]) => {
  const frame = () => new Promise(requestAnimationFrame);
  const units = [...document.querySelectorAll(".unit")];
  const length = document.documentElement.scrollHeight - innerHeight;
  const every = Math.max(1, Math.floor(units.length / count));
  const steps = {
    idle: () => {},
    scroll: (i) => scrollTo(0, (length * (i + 1)) / count),
    hover: (i) => units[i * every].dispatchEvent(
      new PointerEvent("pointerover", { bubbles: true, pointerType: "mouse" })),
    keys: () => document.activeElement.dispatchEvent(
      new KeyboardEvent("keydown", { key: "ArrowRight", bubbles: true, cancelable: true })),
    pin: (i) => units[i * every].click(),
  };
  scrollTo(0, 0);
  units[0].focus();
  await frame();
  await frame();
  longTasks.length = 0;
  const taken = [];
  let last = performance.now();
  for (let i = 0; i < count; i++) {
    steps[action](i);
    await frame();
    const now = performance.now();
    taken.push(now - last);
    last = now;
  }
  await new Promise((done) => setTimeout(done, 100));
  document.dispatchEvent(new KeyboardEvent("keydown", { key: "Escape" }));
  return { taken, long: [...longTasks] };
}"""

# What is done, once a frame, and in which state of the page.
ACTIONS = (
    ("nothing", "idle", ()),
    ("scroll from top to bottom", "scroll", ()),
    ("point at tokens", "hover", ()),
    ("step through tokens by key", "keys", ()),
    ("pin tokens", "pin", ()),
    ("point at tokens, heads shown", "hover", ("#heads summary",)),
    ("scroll, heads shown", "scroll", ("#heads summary",)),
    ("point at words, heads shown", "hover", ("#heads summary", "[value=words]")),
)


def long_explanation(tokens: int, *, layers: int, heads: int, cells: int = 24) -> Explanation:
    """An explanation of random numbers with the sizes of a real one."""
    rng = np.random.default_rng(0)
    pieces: list[str] = []
    while len(pieces) < tokens:
        length = int(rng.choice((1, 1, 1, 2, 3, 4)))
        letters = ["".join(rng.choice(list("aeiorstln"), rng.integers(2, 6))) for _ in range(length)]
        pieces += [" " + letters[0], *letters[1:], *((".", "\n") if rng.random() < 0.04 else ())]
    scores = rng.gamma(0.5, size=(2, tokens, layers, heads)).astype(np.float32)
    maps = rng.gamma(0.5, size=(tokens, cells, cells)).astype(np.float32)
    ranges = np.stack([maps.min(axis=(1, 2)), maps.max(axis=(1, 2))], axis=1)
    weights = np.maximum(scores[0].max(axis=(1, 2)) - scores[1].max(axis=(1, 2)), 0)
    maps = np.stack([minmax(one) for one in maps])
    return Explanation(
        tokens=pieces[:tokens],
        token_ids=np.arange(tokens, dtype=np.int64),
        token_maps=maps,
        answer_map=minmax((weights[:, None, None] * maps).sum(axis=0)),
        token_weights=weights,
        image_scores=scores[0],
        text_scores=scores[1],
        token_map_ranges=ranges,
        layers=tuple(range(layers)),
        grid=whole_image(cells, cells, (336, 336)),
        settings={"prompt": "Describe the image in great detail.", "model": "random", "method": "dexar"},
    )


def opened(browser: Browser, path: Path) -> tuple[Page, dict[str, float]]:
    """A fresh page with the report in it, and milliseconds from navigation on."""
    page = browser.new_context(viewport={"width": 1280, "height": 900}).new_page()
    page.add_init_script(WATCH)
    page.goto(path.as_uri())
    page.wait_for_function("window.interactive")
    page.locator("[value=tokens]").click(force=True)
    times: dict[str, float] = page.evaluate(
        """() => ({
          first_content_ms: performance.getEntriesByName("first-contentful-paint")[0].startTime,
          interactive_ms: interactive,
          elements: document.getElementsByTagName("*").length,
        })"""
    )
    return page, times


def frames(
    page: Page, session: CDPSession, name: str, action: str, clicks: Sequence[str], count: int
) -> dict[str, Any]:
    """Frame times of one action; what was clicked to begin with is clicked back in the end."""

    def busy_s() -> float:
        found: list[dict[str, Any]] = session.send("Performance.getMetrics")["metrics"]
        return next(float(one["value"]) for one in found if one["name"] == "TaskDuration")

    for place in clicks:
        page.locator(place).click(force=True)
    before = busy_s()
    measured = page.evaluate(FRAMES, [action, count])
    busy_ms = 1000 * (busy_s() - before) / count
    for place in clicks:
        page.locator(place.replace("words", "tokens")).click(force=True)
    taken = np.array(measured["taken"])
    median, high = np.quantile(taken, (0.5, 0.95)).tolist()
    return {
        "action": name,
        "frames": count,
        "main_thread_ms": busy_ms,
        "median_ms": median,
        "p95_ms": high,
        "longest_ms": float(taken.max()),
        "long_tasks": len(measured["long"]),
    }


def table(document: dict[str, Any]) -> str:
    """The results as Markdown."""
    where, opening = document["environment"], document["opening"]
    idle = document["rows"][0]["p95_ms"]
    busy = (
        " Frames came late even while nothing was done: the machine was busy, and only the main thread's times are the "
        "page's."
    )
    lines = [
        f"{document['tokens']} tokens, {document['words']} words, {document['layers']} layers of {document['heads']} "
        f"heads: {document['bytes'] / 1e6:.1f} MB, written in {document['write_s']:.1f} s; first content after "
        f"{opening['first_content_ms']:.0f} ms, interactive after {opening['interactive_ms']:.0f} ms (medians of "
        f"{OPENINGS}), {opening['elements']:.0f} elements.",
        "",
        "| once a frame | main thread, a frame | frame time: median | 95 % | longest | long tasks (> 50 ms) |",
        "|---|---:|---:|---:|---:|---:|",
        *(
            f"| {row['action']} | {row['main_thread_ms']:.1f} ms | {row['median_ms']:.1f} ms | {row['p95_ms']:.1f} ms "
            f"| {row['longest_ms']:.1f} ms | {row['long_tasks']} in {row['frames']} frames |"
            for row in document["rows"]
        ),
        "",
        f"Chromium {document['browser']}, headless, drawn by the CPU; {where['device']}, {where['cores']} cores, load "
        f"{document['load']:.1f} before, {where['date']}.{busy if idle > FRAME_BUDGET_MS else ''}",
    ]
    return "\n".join(lines)


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.run report", description=__doc__)
    parser.add_argument("--tokens", type=int, default=2000)
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--heads", type=int, default=32)
    parser.add_argument("--frames", type=int, default=300, help="of each action")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--docs", type=Path, help="a Markdown file for the table, such as docs/benchmarks.md")
    options = parser.parse_args(arguments)
    chromium = next((found for name in CHROMIUM if (found := shutil.which(name))), None)
    if chromium is None:
        sys.exit(f"report: needs a Chromium on the PATH ({', '.join(CHROMIUM)}); none was found")
    document = measure(options.tokens, options.layers, options.heads, options.frames, chromium)
    text = table(document)
    print(text)
    write_results(options.results / f"report-{slug(document['environment'])}.json", document)
    if options.docs:
        put_between_markers(options.docs, "report", text)
    late = [row["action"] for row in document["rows"] if row["p95_ms"] > FRAME_BUDGET_MS]
    slow = document["opening"]["interactive_ms"] > OPEN_BUDGET_MS
    print(f"Over the budget: {', '.join(late + ['opening'] * slow) or 'nothing'}")


def measure(tokens: int, layers: int, heads: int, count: int, chromium: str) -> dict[str, Any]:
    """Write, open and use the report; everything that `table` shows."""
    from playwright.sync_api import sync_playwright

    explanation = long_explanation(tokens, layers=layers, heads=heads)
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as driver:
        start = time.perf_counter()
        path = explanation.to_html(Path(folder) / "report.html")
        write_s = time.perf_counter() - start
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        openings = []
        for _ in range(OPENINGS):
            page, times = opened(browser, path)
            openings.append(times)
            page.context.close()
        page, _ = opened(browser, path)
        session = page.context.new_cdp_session(page)
        session.send("Performance.enable", {"timeDomain": "threadTicks"})
        rows = [frames(page, session, name, action, clicks, count) for name, action, clicks in ACTIONS]
        document = {
            "environment": environment("cpu"),
            "browser": browser.version,
            "load": load,
            "tokens": tokens,
            "words": len(explanation.words()),
            "layers": layers,
            "heads": heads,
            "bytes": path.stat().st_size,
            "write_s": write_s,
            "opening": {name: statistics.median(times[name] for times in openings) for name in openings[0]},
            "rows": rows,
        }
        browser.close()
    return document


if __name__ == "__main__":
    main(sys.argv[1:])
