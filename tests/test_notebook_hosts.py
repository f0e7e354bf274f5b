"""The report as notebooks of other houses show it: under their content security policies, in their sandboxed frames.

Each page stands for a host, and follows public sources of it, which are named beside it; the hosts themselves do not
run here. Hovering and clicking words must draw their maps, and nothing may be blocked on the way.
"""

from __future__ import annotations

import html
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any

import pytest

from dexar_fast.render.languages import labels, languages

from .browsers import browser
from .explanations import make_explanation, scene

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Frame, Page

__all__ = ["browser"]  # a fixture

ORIGIN, OTHER = "https://notebook.test", "https://outputs.test"

# How outputs get into a page: as markup. Scripts in it would be made anew so that they run; ours are within the frame.
# microsoft/vscode: `renderHTML` of extensions/notebook-renderers/src/index.ts
# jupyterlab/jupyterlab: `renderHTML` of packages/rendermime/src/renderers.ts
INSERT = """
const insert = (text, into) => {
  const output = document.createElement("div");
  output.innerHTML = text;
  into.append(output);
};
"""


def page(body: str, *, policy: str = "", base: str = "") -> str:
    """An HTML document under a policy of its own."""
    meta = f'<meta http-equiv="Content-Security-Policy" content="{policy}">' if policy else ""
    return f'<!doctype html><html><head><meta charset="utf-8">{base}{meta}</head><body>{body}</body></html>'


def in_script(text: str) -> str:
    """A string of JavaScript that may stand inside of a script element."""
    return json.dumps(text).replace("</", "<\\/")


def vscode(output: str) -> dict[str, str]:
    """Pages of VS Code by address, as in microsoft/vscode.

    - The workbench puts a frame into itself: `_createElement` of
      src/vs/workbench/contrib/webview/browser/webviewElement.ts.
    - That one has a policy of its own, makes a frame of an empty page, and writes the notebook into it:
      src/vs/workbench/contrib/webview/browser/pre/index.html, fake.html. Scripts are allowed in notebooks.
    - The notebook has a base address, a policy (``enableCsp``), and hides what overflows: `generateContent` of
      src/vs/workbench/contrib/notebook/browser/view/renderers/backLayerWebView.ts; ``'self' https://*.vscode-cdn.net``
      is `webviewGenericCspSource` of src/vs/workbench/contrib/webview/common/webview.ts.
    """
    cdn = "'self' https://*.vscode-cdn.net"
    policy = (
        f"default-src 'none'; script-src {cdn} 'unsafe-inline' 'unsafe-eval'; style-src {cdn} 'unsafe-inline'; "
        f"img-src {cdn} https: http: data:; font-src {cdn} https:; connect-src https:; child-src https: data:;"
    )
    notebook = page(
        '<div id="container" style="position: absolute; width: 100%; top: 0"></div>'
        f'<script type="module">{INSERT} insert({in_script(output)}, document.getElementById("container"))</script>',
        policy=policy,
        base='<base href="https://file.vscode-resource.vscode-cdn.net/home/">',
    )
    write = f"""
    const notebook = document.createElement("iframe");
    notebook.sandbox = "allow-same-origin allow-pointer-lock allow-scripts allow-downloads allow-forms";
    notebook.style = "border: 0; position: absolute; inset: 0; width: 100%; height: 100%";
    notebook.addEventListener("load", () => {{
      const empty = notebook.contentDocument;
      empty.open();
      empty.write({in_script(notebook)});
      empty.close();
    }}, {{ once: true }});
    notebook.src = "/fake.html";
    document.body.append(notebook);
    """
    webview = "allow-scripts allow-same-origin allow-forms allow-pointer-lock allow-downloads"
    return {
        f"{ORIGIN}/": page(
            f'<iframe sandbox="{webview}" src="{OTHER}/index.html" style="border: 0; width: 100%; height: 900px">'
            "</iframe>"
        ),
        f"{OTHER}/index.html": page(
            '<script src="/main.js"></script>',
            policy="default-src 'none'; script-src 'self'; frame-src 'self'; style-src 'unsafe-inline';",
        ),
        f"{OTHER}/main.js": write,
        f"{OTHER}/fake.html": page(""),
    }


def colab(output: str, *, downloads: bool) -> dict[str, str]:
    """Pages of Colab by address; the strictest reading of what is public, as its own pages are not.

    - Rich outputs are in a frame of another origin, ``*-colab.googleusercontent.com/outputframe.html``, as tall as what
      is in it, up to 1000 pixels (visgl/deck.gl, pull request 8881).
    - What HTML outputs must be allowed there is what googlecolab/colabtools itself needs: inline scripts and styles
      (`_upload_files` of google/colab/files.py), and saving by a link that a script clicks (`download` of the same
      file). Pictures in the text apart, nothing else is allowed here; without ``downloads`` not even saving.
    """
    sandbox = "allow-scripts allow-downloads" if downloads else "allow-scripts"
    listen = """addEventListener("message", ({ data }) => {
      document.querySelector("iframe").style.height = `${Math.min(1000, data)}px`; });"""
    report_height = """const size = () => parent.postMessage(document.documentElement.scrollHeight, "*");
      new ResizeObserver(size).observe(document.documentElement);"""
    return {
        f"{ORIGIN}/": page(
            f'<p>cell</p><script>{listen}</script><iframe sandbox="{sandbox}" src="{OTHER}/outputframe.html"'
            ' style="border: 0; width: 100%; height: 0"></iframe>'
        ),
        f"{OTHER}/outputframe.html": page(
            f"<script>{INSERT} insert({in_script(output)}, document.body); {report_height}</script>",
            policy="default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:",
        ),
    }


def jupyter(output: str) -> dict[str, str]:
    """The page of JupyterLab 4 and Notebook 7 for notebooks that are trusted: outputs are a part of it.

    Its server sends ``frame-ancestors`` alone (jupyter-server/jupyter_server: `content_security_policy` of
    jupyter_server/base/handlers.py), which is none of what may run.
    """
    return {f"{ORIGIN}/": page(f"<p>cell</p><script>{INSERT} insert({in_script(output)}, document.body)</script>")}


class Sanitizer(HTMLParser):
    """What Jupyter keeps of the HTML in notebooks that are not trusted, in ``kept``.

    jupyterlab/jupyterlab: packages/apputils/src/sanitizer.ts, which hands a list of tags to sanitize-html: other tags
    go, and what is in them stays, but for scripts and styles. The few tags here are on that list; frames are not.
    """

    def __init__(self, text: str) -> None:
        super().__init__()
        self.kept = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("p", "img", "div", "span"):
            allowed = [f'{name}="{html.escape(value or "")}"' for name, value in attrs if name in ("src", "alt")]
            self.kept += f"<{' '.join([tag, *allowed])}>"

    def handle_endtag(self, tag: str) -> None:
        if tag in ("p", "div", "span"):
            self.kept += f"</{tag}>"

    def handle_data(self, data: str) -> None:
        if self.cdata_elem is None:
            self.kept += html.escape(data)


@dataclass
class Host:
    """An open page of a host with the report in it, and what was heard meanwhile."""

    page: Page
    report: Frame
    heard: list[str]
    saved: list[str]

    def settle(self) -> None:
        self.report.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def overlay(self) -> str:
        """The pixels of the map."""
        self.settle()
        return str(self.report.evaluate("document.getElementById('overlay').toDataURL()"))

    def text(self, name: str) -> str:
        return self.report.locator(f"#{name}").inner_text()


# VS Code means it, and says so in its sources; Chromium warns of it.
EXPECTED = "allow-scripts and allow-same-origin"


@pytest.fixture
def show(browser: Browser) -> Iterator[Callable[[dict[str, str]], Host]]:
    """Serve pages by their addresses, and find the report in the first; in the end nothing may have been heard."""
    hosts: list[Host] = []

    def shown(pages: dict[str, str]) -> Host:
        context = browser.new_context(viewport={"width": 1280, "height": 1000})
        tab = context.new_page()
        heard: list[str] = []
        saved: list[str] = []

        def serve(route: Any) -> None:
            address = route.request.url
            if address in pages:
                kind = "text/javascript" if address.endswith(".js") else "text/html"
                route.fulfill(body=pages[address], content_type=f"{kind}; charset=utf-8")
            else:
                heard.append(f"request: {address}")
                route.abort()

        context.route("**/*", serve)
        tab.on("console", lambda said: None if EXPECTED in said.text else heard.append(said.text))
        tab.on("pageerror", lambda error: heard.append(str(error)))
        tab.on("download", lambda download: saved.append(download.suggested_filename))
        with tab.expect_event("framenavigated", lambda frame: frame.url == "about:srcdoc") as found:
            tab.goto(f"{ORIGIN}/")
        report = found.value
        report.locator("#unit-0").wait_for()
        hosts.append(Host(tab, report, heard, saved))
        return hosts[-1]

    yield shown
    for host in hosts:
        host.page.context.close()
        assert host.heard == []


OUTPUT = make_explanation(image=scene())
HOSTS: dict[str, Callable[[str], dict[str, str]]] = {
    "vscode": vscode,
    "colab": lambda output: colab(output, downloads=True),
    "colab that lets nothing be saved": lambda output: colab(output, downloads=False),
    "jupyter": jupyter,
}
each_host = pytest.mark.parametrize("host", HOSTS)


def shown_in(show: Callable[[dict[str, str]], Host], host: str) -> Host:
    return show(HOSTS[host](OUTPUT._repr_html_() or ""))


@each_host
def test_words_answer_the_pointer(show: Callable[[dict[str, str]], Host], host: str) -> None:
    seen = shown_in(show, host)
    assert seen.report.evaluate("document.getElementById('picture').naturalWidth") == 640
    assert seen.report.evaluate("getComputedStyle(document.querySelector('main')).display") == "grid"
    whole = seen.overlay()
    seen.report.locator("#unit-5").hover()
    red = seen.overlay()
    assert red != whole
    assert seen.text("shown") == "“red”"
    seen.report.locator("#unit-8").click()
    pagoda = seen.overlay()
    assert pagoda not in (whole, red)
    assert seen.report.locator("[aria-selected=true]").count() == 1
    seen.report.locator("#reading").hover()
    assert seen.overlay() == pagoda
    seen.page.keyboard.press("Escape")
    assert seen.overlay() == whole
    around = seen.report.parent_frame
    assert around is not None
    assert not around.locator("noscript").is_visible()


@each_host
def test_the_report_stays_where_it_is(show: Callable[[dict[str, str]], Host], host: str) -> None:
    """A frame's addresses are those of the page around it: a link to a part of the report must not load that page."""
    seen = shown_in(show, host)
    skip = seen.report.locator("a.skip")
    skip.focus()
    skip.press("Enter")
    seen.settle()
    assert seen.report.url == "about:srcdoc"
    assert seen.report.evaluate("document.activeElement.id") == "unit-0"
    assert seen.report.evaluate("document.getElementById('link-note').hidden")  # there is no address to send


@each_host
def test_a_picture_is_saved_or_words_say_how(show: Callable[[dict[str, str]], Host], host: str) -> None:
    seen = shown_in(show, host)
    assert not seen.report.locator("#save-note").is_visible()
    seen.report.locator("#unit-5").click()
    seen.report.locator("#save").click()
    seen.page.wait_for_timeout(500)
    assert 'explanation.overlay(word="…").save("map.png")' in seen.text("save-note")
    if "nothing" in host:
        assert seen.saved == []
    else:
        assert seen.saved == ["red.png"]


@pytest.mark.parametrize("lang", languages())
def test_without_trust_there_are_words_and_the_picture(browser: Browser, lang: str) -> None:
    """Jupyter prefers HTML, of which it takes frames out, to pictures: rank 50 and 90, both safe, in
    packages/rendermime/src/factories.ts; `preferredMimeType` of packages/rendermime/src/registry.ts."""
    tab = browser.new_page()
    tab.set_content(Sanitizer(OUTPUT.to_notebook(lang=lang)._repr_html_() or "").kept)
    assert tab.inner_text("body").strip() == labels(lang)["untrusted"]
    assert tab.locator("iframe").count() == 0
    assert tab.evaluate("document.querySelector('img').naturalWidth") == 640
    assert tab.get_by_alt_text(labels(lang)["answer_map"]).is_visible()
    tab.close()


def test_what_a_host_forbids_would_be_heard(browser: Browser) -> None:
    """The other tests could not fail, if a policy that forbids the report's pictures made no noise."""
    heard: list[str] = []
    tab = browser.new_page()
    tab.on("console", lambda said: heard.append(said.text))
    pages = colab(OUTPUT._repr_html_() or "", downloads=True)
    stricter = {address: text.replace("img-src data:", "img-src 'none'") for address, text in pages.items()}
    tab.route("**/*", lambda route: route.fulfill(body=stricter[route.request.url], content_type="text/html"))
    tab.goto(f"{ORIGIN}/")
    tab.frame_locator("iframe").frame_locator("iframe").locator("#unit-0").wait_for()
    tab.wait_for_timeout(200)
    assert any("img-src" in text for text in heard)
    tab.close()
