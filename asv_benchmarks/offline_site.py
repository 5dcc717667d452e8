"""Turn asv's results into pages that need no network: `make bench-site`.

asv's page loads ten files from content delivery networks. Here each comes from the npm package that
it was published as, is checked against a hash, and is laid beside the page. The hash is the one in
asv's own tag, but for the files named in REBUILT.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).resolve().parent
SITE = HERE / ".asv" / "html"
RESULTS = HERE / ".asv" / "results"
CACHE = HERE / ".asv" / "npm"

# The end of an address in asv's page: the npm package and the file in it.
PACKAGES = {
    "jquery-3.3.1.min.js": ("jquery@3.3.1", "dist/jquery.min.js"),
    "flot/0.8.3/jquery.flot.min.js": ("flot@0.8.3", "jquery.flot.js"),
    "flot/0.8.3/jquery.flot.time.min.js": ("flot@0.8.3", "jquery.flot.time.js"),
    "flot/0.8.3/jquery.flot.selection.min.js": ("flot@0.8.3", "jquery.flot.selection.js"),
    "flot/0.8.3/jquery.flot.categories.min.js": ("flot@0.8.3", "jquery.flot.categories.js"),
    "flot-orderbars@1.0.0/js/jquery.flot.orderBars.js": (
        "flot-orderbars@1.0.0",
        "js/jquery.flot.orderBars.js",
    ),
    "stupidtable/1.0.1/stupidtable.min.js": ("stupid-table-plugin@1.1.3", "stupidtable.min.js"),
    "blueimp-md5/2.19.0/js/md5.min.js": ("blueimp-md5@2.19.0", "js/md5.min.js"),
    "bootstrap@3.1.1/dist/js/bootstrap.min.js": ("bootstrap@3.1.1", "dist/js/bootstrap.min.js"),
    "bootstrap@3.1.1/dist/css/bootstrap.min.css": ("bootstrap@3.1.1", "dist/css/bootstrap.min.css"),
}

# The network minified flot itself, and npm has one release of stupidtable, a later one: their
# bytes differ from those in asv's tag, so that their hashes are kept here.
REBUILT = {
    "jquery.flot.js": "sha256-t7kx8nPDixJ3ucbB9OBcTsCYhaSHvdrzJ54tfkmjjhI=",
    "jquery.flot.time.js": "sha256-pYLIMq3HE4prBar2HxbrrCdHAfG+Sv6nfnOaHDS5xBo=",
    "jquery.flot.selection.js": "sha256-5shfbB6+S02inYriOMfFBgKD8F9+8FT2uRgX0CwJKRg=",
    "jquery.flot.categories.js": "sha256-boFmSyjqeVxzSQb0qhVhRkCnWsf705mn+5CEBAaYNRo=",
    "stupidtable.min.js": "sha256-RkI4Dyjr6e18rCUXk7KB74YgxDhiBdkniPmxL1zOtOA=",
}

TAG = re.compile(r'<(?:script|link)\b[^>]*?(src|href)="(https?://[^"]+)"[^>]*>')
INTEGRITY = re.compile(r'integrity="([^"]+)"')

Fetch = Callable[[list[str]], Path]


def main() -> None:
    """Publish the results and take the pages off the network."""
    if importlib.util.find_spec("asv") is None:
        raise SystemExit('ngdla: asv is not installed: pip install -e ".[bench]"')
    if shutil.which("npm") is None:
        raise SystemExit("ngdla: npm is not installed; it fetches the scripts of asv's pages")
    if not (RESULTS / "benchmarks.json").exists():
        raise SystemExit("ngdla: no results yet; make bench writes them")
    command = [sys.executable, "-m", "asv", "publish"]
    published = subprocess.run(command, cwd=HERE, capture_output=True, text=True, check=False)
    if published.returncode:
        sys.stderr.write(published.stdout + published.stderr)
        raise SystemExit("ngdla: asv publish failed; what it said is above")
    page, index, vendor = SITE / "index.html", SITE / "index.json", SITE / "vendor"
    html = localised(page.read_text("utf-8"), from_npm, vendor)
    page.write_text(for_narrow_screens(html, vendor), "utf-8")
    index.write_text(with_results(index.read_text("utf-8"), SITE / "graphs" / "summary"), "utf-8")
    folder = SITE.relative_to(HERE.parent)
    print(f"pages: {folder}; to see them: python -m http.server --bind 127.0.0.1 -d {folder}")


def localised(html: str, fetch: Fetch, vendor: Path) -> str:
    """Return the page with every tag that leads to the network replaced by one of a local copy."""
    tags = {match[0]: (match[1], match[2]) for match in TAG.finditer(html)}
    sources = {tag: package_of(address) for tag, (_, address) in tags.items()}
    modules = fetch(sorted({package for package, _ in sources.values()}))
    vendor.mkdir(parents=True, exist_ok=True)
    for tag, (attribute, _) in tags.items():
        package, name = sources[tag]
        source = modules / package.rpartition("@")[0] / name
        verify(source, INTEGRITY.search(tag))
        shutil.copyfile(source, vendor / source.name)
        html = html.replace(tag, local_tag(attribute, f"{vendor.name}/{source.name}"))
    return html


def for_narrow_screens(html: str, vendor: Path) -> str:
    """Return the page with the style sheet that lays it out on a telephone."""
    shutil.copyfile(HERE / "narrow.css", vendor / "narrow.css")
    scale = '<meta name="viewport" content="width=device-width, initial-scale=1">'
    style = local_tag("href", f"{vendor.name}/narrow.css")
    return html.replace("</head>", f"{scale}{style}</head>")


def with_results(index: str, summaries: Path) -> str:
    """Return asv's index without the benchmarks that were never run, whose graphs it would miss."""
    content = json.loads(index)
    names = list(content["benchmarks"])
    for name in names:
        if not (summaries / f"{name}.json").exists():
            del content["benchmarks"][name]
    return json.dumps(content)


def package_of(address: str) -> tuple[str, str]:
    """Return the npm package of an address and the file in it."""
    for end, source in PACKAGES.items():
        if address.endswith("/" + end):
            return source
    raise SystemExit(f"ngdla: asv's page loads {address}, which PACKAGES of {__name__} lacks")


def verify(path: Path, in_tag: re.Match[str] | None) -> None:
    """Give up in one line where a file is missing, or not the one that a hash stands for."""
    if not path.is_file():
        raise SystemExit(f"ngdla: {path} is missing; remove {CACHE} and try again")
    wanted = REBUILT.get(path.name) or (in_tag[1] if in_tag else "")
    if not wanted:
        raise SystemExit(f"ngdla: asv's tag of {path.name} has no hash; REBUILT needs one")
    algorithm = wanted.partition("-")[0]
    digest = base64.b64encode(hashlib.new(algorithm, path.read_bytes()).digest()).decode()
    if wanted != f"{algorithm}-{digest}":
        raise SystemExit(f"ngdla: {path.name} from npm is not the file with the hash {wanted}")


def local_tag(attribute: str, address: str) -> str:
    """Return the tag of a local script or style sheet."""
    if attribute == "src":
        return f'<script src="{address}">'
    return f'<link rel="stylesheet" href="{address}">'


def from_npm(packages: list[str]) -> Path:
    """Return the folder that holds the packages, fetched unless they are there already."""
    modules, stamp = CACHE / "node_modules", CACHE / "packages.txt"
    wanted = "\n".join(packages)
    if stamp.exists() and stamp.read_text("utf-8") == wanted:
        return modules
    CACHE.mkdir(parents=True, exist_ok=True)
    options = ["--ignore-scripts", "--no-save", "--no-audit", "--no-fund", "--loglevel=error"]
    done = subprocess.run(
        ["npm", "install", "--prefix", str(CACHE), *options, *packages],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        said = next((line for line in done.stderr.splitlines() if "error" in line), "no reason")
        raise SystemExit(f"ngdla: npm could not fetch {', '.join(packages)}: {said}")
    stamp.write_text(wanted, "utf-8")
    return modules


if __name__ == "__main__":
    main()
