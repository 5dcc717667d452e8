"""Look at built pages in a headless browser: pictures to look through, and what is wrong with them.

    python tools/look.py docs/_build/html
    python tools/look.py asv_benchmarks/.asv/html '#/' '#gram.Gram.time_gram' --wait-for canvas

Every page is opened at the width of a desk and of a telephone, served from this machine. A finding
is a line on stdout: an error of the page, a request that failed or left this machine, a page wider
than the screen, a formula or image that does not show. Exit code 1: findings, 2: cannot look.
"""

from __future__ import annotations

import argparse
import http.server
import shutil
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

WIDTHS = (1280, 390)
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)

# Run in the page. A formula is an element of class "math" until MathJax has put its output in it.
FINDINGS = r"""() => {
    const found = [];
    const page = document.scrollingElement;
    if (page.scrollWidth > innerWidth)
        found.push(`is ${page.scrollWidth} px wide on a screen of ${innerWidth} px`);
    for (const math of document.querySelectorAll(".math"))
        if (!math.querySelector("mjx-container svg, mjx-container mjx-math"))
            found.push(`formula not rendered: ${math.textContent.trim().slice(0, 60)}`);
    for (const error of document.querySelectorAll("[data-mjx-error]"))
        found.push(`formula with an error: ${error.getAttribute("data-mjx-error")}`);
    const prose = document.body.cloneNode(true);
    for (const other of prose.querySelectorAll("pre, code, script, style, .math")) other.remove();
    const text = prose.textContent;
    for (const raw of [/\\\[/, /\\\(/, /\$\$/])
        if (raw.test(text)) found.push(`raw formula in the text: ${text.match(raw)[0]}`);
    for (const image of document.images)
        if (image.complete && !image.naturalWidth) found.push(`image not shown: ${image.src}`);
    return found;
}"""


def main() -> int:
    """Look at every page and return the exit code."""
    options = parsed()
    root = options.site.resolve()
    if not root.is_dir():
        complain(f"{options.site} is not a folder; build the pages first")
    if options.limit < 1:
        complain("--limit must be 1 or more")
    pages = (options.pages or all_pages(root))[: options.limit]
    if not pages:
        complain(f"no page in {options.site}; build the pages first")
    try:
        options.pictures.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=options.pictures).close()
    except OSError as error:
        complain(
            f"cannot write into {options.pictures} ({error.strerror}); give another --pictures"
        )
    with served(root) as address, browser() as chromium:
        looks = [(page, width) for page in pages for width in WIDTHS]
        findings = [
            f"{page} at {width} px: {finding}"
            for page, width in looks
            for finding in look(chromium, address, page, width, options)
        ]
    for finding in findings:
        print(finding)
    print(f"{len(looks)} looks, {len(findings)} findings; pictures: {options.pictures}")
    return 1 if findings else 0


def parsed() -> argparse.Namespace:
    """Return the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("site", type=Path, help="folder of the built pages")
    parser.add_argument("pages", nargs="*", help="addresses in it, also #routes; default: all")
    parser.add_argument("--pictures", type=Path, default=Path("look"), help="default: look/")
    parser.add_argument("--limit", type=int, default=100, help="most pages to open (100)")
    parser.add_argument("--wait-for", metavar="SELECTOR", help="what a page must show")
    return parser.parse_args()


def all_pages(root: Path) -> list[str]:
    """Return the pages of a site, without what a theme keeps in folders like _static."""
    names = (path.relative_to(root).as_posix() for path in root.rglob("*.html"))
    return sorted(name for name in names if not name.startswith("_"))


def complain(message: str) -> NoReturn:
    """Leave with one line."""
    print(f"look: {message}", file=sys.stderr)
    sys.exit(2)


# ------------------------------------------------------------------------------ machinery


class Quiet(http.server.SimpleHTTPRequestHandler):
    """A server that does not talk."""

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Say nothing."""


@contextmanager
def served(root: Path) -> Iterator[str]:
    """Serve a folder on a free port of this machine and yield its address."""
    handler = partial(Quiet, directory=str(root))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@contextmanager
def browser() -> Iterator[Any]:
    """Yield an installed Chromium; nothing is downloaded."""
    try:
        from playwright.sync_api import Error, sync_playwright
    except ImportError:
        complain("the driver is not installed; pip install playwright")
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        complain("no Chromium is installed; install chromium (Debian, Ubuntu) or Google Chrome")
    with sync_playwright() as driver:
        try:
            chromium = driver.chromium.launch(executable_path=path, args=FLAGS)
        except Error as error:
            complain(f"{path} does not start: {error.message.splitlines()[0]}")
        yield chromium
        chromium.close()


# ---------------------------------------------------------------------------------- a look


def look(chromium: Any, address: str, page: str, width: int, options: Any) -> list[str]:
    """Open a page, save a picture of all of it, and return what is wrong."""
    from playwright.sync_api import Error

    findings: list[str] = []
    tab = chromium.new_page(viewport={"width": width, "height": 900})
    listen(tab, address, findings)
    try:
        tab.goto(f"{address}/{page}", wait_until="networkidle", timeout=60_000)
        if options.wait_for:
            tab.wait_for_selector(options.wait_for, timeout=15_000)
        settle(tab)
        findings += tab.evaluate(FINDINGS)
    except Error as error:
        findings.append(error.message.splitlines()[0])
    tab.screenshot(path=options.pictures / f"{name_of(page)}-{width}.png", full_page=True)
    tab.close()
    return list(dict.fromkeys(findings))


def listen(tab: Any, address: str, findings: list[str]) -> None:
    """Collect what the page says and asks for while it loads."""

    def requested(request: Any) -> None:
        if not request.url.startswith((address, "data:", "blob:")):
            findings.append(f"asks for {request.url}")

    def responded(response: Any) -> None:
        if response.status >= 400:
            findings.append(f"{response.status} for {response.url.removeprefix(address)}")

    def said(message: Any) -> None:
        if message.type == "error" and "Failed to load resource" not in message.text:
            findings.append(f"console: {message.text.splitlines()[0]}")

    tab.on("request", requested)
    tab.on("response", responded)
    tab.on("requestfailed", lambda request: findings.append(f"no answer for {request.url}"))
    tab.on("console", said)
    tab.on("pageerror", lambda error: findings.append(f"script: {error.message.splitlines()[0]}"))


def settle(tab: Any) -> None:
    """Load the images that wait to be scrolled to, and let MathJax finish."""
    tab.evaluate("() => { for (const image of document.images) image.loading = 'eager'; }")
    tab.evaluate("() => Promise.all([...document.images].map(i => i.decode().catch(() => 0)))")
    tab.evaluate("() => window.MathJax?.startup?.promise?.then(() => 0)")


def name_of(page: str) -> str:
    """Return the page as a file name."""
    name = "".join(c if c.isalnum() else "-" for c in page.removesuffix(".html")).strip("-")
    return name or "index"


if __name__ == "__main__":
    sys.exit(main())
