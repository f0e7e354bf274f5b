"""Take the README's picture of a report: ``python examples/report_picture.py report.png``.

Needs Playwright (``pip install playwright``) and a Chromium on the PATH.
"""

import shutil
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from playwright.sync_api import sync_playwright

from dexar_fast import Explainer
from dexar_fast.cli.app import DEMO_PROMPT, DEMO_SCALE, DEMO_SEED
from dexar_fast.demo.scenes import draw_scene

image = draw_scene(DEMO_SEED, scale=DEMO_SCALE).image
explanation = Explainer.from_pretrained("demo").explain(image, DEMO_PROMPT, grounding=True)
with TemporaryDirectory() as folder, sync_playwright() as driver:
    browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    page.goto(explanation.to_html(Path(folder, "report.html")).as_uri())
    page.locator(".unit", has_text="triangle").hover()
    page.wait_for_timeout(500)
    page.screenshot(path=sys.argv[1])
    browser.close()
