"""The site: built strictly, from every page, and without a request to any network when it is read."""

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.paths import ROOT

CHROMIUM = shutil.which("chromium")
# What somebody looks for who has never seen the project, and the page that answers.
LOOKED_FOR = {
    "my own trainer": "bring_your_own.html",
    "codecarbon file": "faq.html",
    "undecided": "verdicts.html",
    "model card": "sustainability.html",
    "70B cost": "faq.html",
    "slurm": "clusters.html",
}
# Opens each page in frames of both widths, then searches; what was found is written into this page as JSON.
HARNESS = """<!doctype html><meta charset="utf-8"><body><script>
const pages = PAGES, words = WORDS, found = { wide: [], results: {} };
const wait = (ms) => new Promise((done) => setTimeout(done, ms));
async function frame(path, width) {
  const f = document.createElement("iframe");
  f.width = width; f.height = 700; f.src = path;
  document.body.append(f);
  await new Promise((done) => (f.onload = done));
  return f;
}
(async () => {
  for (const width of [390, 1280]) for (const path of pages) {
    const f = await frame(path, width);
    if (f.contentDocument.documentElement.scrollWidth > width) found.wide.push([path, width]);
    f.remove();
  }
  const f = await frame("index.html", 1280), page = f.contentDocument, input = page.querySelector(".md-search__input");
  input.focus();
  await wait(1500);
  for (const word of words) {
    input.value = word;
    for (const kind of ["keyup", "input"]) input.dispatchEvent(new f.contentWindow.Event(kind));
    await wait(1500);
    const links = [...page.querySelectorAll(".md-search-result__link")];
    found.results[word] = links.map((link) => link.getAttribute("href").split(/[?#]/)[0].split("/").pop());
  }
  document.body.append(Object.assign(document.createElement("pre"), { textContent: JSON.stringify(found) }));
})();
</script>"""
LINK = re.compile(r"\]\((?!https?:)([^)#\s]+)")


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"])
def test_links_of_the_pages_at_the_top_lead_somewhere(page: str) -> None:
    links = LINK.findall((ROOT / page).read_text(encoding="utf-8"))
    assert [link for link in links if not (ROOT / link).exists()] == []


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built with every warning an error: a link or an anchor that leads nowhere, a page that is in no menu."""
    build = pytest.importorskip("mkdocs.commands.build", reason="needs the extra `docs`")
    config = pytest.importorskip("mkdocs.config")
    folder = tmp_path_factory.mktemp("site")
    build.build(config.load_config(str(ROOT / "mkdocs.yml"), site_dir=str(folder), strict=True))
    return folder


def test_every_page_is_built(site: Path) -> None:
    pages = {path.relative_to(ROOT / "docs").with_suffix(".html") for path in (ROOT / "docs").rglob("*.md")}
    for page in pages:
        assert (site / page).exists() or (site / page.parent / "index.html").exists(), page


def test_nothing_is_fetched_from_a_network(site: Path) -> None:
    fetched = re.compile(r"""<(?:script|img|iframe|link)\b[^>]*\b(?:src|href)=["']?(?:https?:)?//[^"'\s>]+""")
    for page in site.rglob("*.html"):
        assert not fetched.findall(page.read_text(encoding="utf-8")), page
    for sheet in site.rglob("*.css"):
        assert not re.findall(r"url\(\s*[\"']?(?:https?:)?//", sheet.read_text(encoding="utf-8")), sheet


def test_blocks_of_the_pages_are_blocks_of_the_site(site: Path) -> None:
    """A fence that the site does not understand shows its backquotes."""
    for page in site.rglob("*.html"):
        if "study" not in page.parts and page.name != "estimator_sliders.html":
            assert "```" not in page.read_text(encoding="utf-8"), page


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
def test_in_a_browser_nothing_is_wider_than_a_phone_and_the_search_finds_answers(site: Path) -> None:
    """Opened from the disk, as somebody without a server would."""
    pages = sorted(
        str(page.relative_to(site)) for page in site.glob("**/*.html") if "article" in page.read_text("utf-8")
    )
    pages = [
        page for page in pages if not page.startswith(("study/report", "study/grouping", "estimator_sliders", "404"))
    ]
    text = HARNESS.replace("PAGES", json.dumps(pages)).replace("WORDS", json.dumps(list(LOOKED_FOR)))
    (site / "harness.html").write_text(text, encoding="utf-8")
    done = subprocess.run(
        [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files",
         "--virtual-time-budget=60000", "--dump-dom", (site / "harness.html").as_uri()],
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    match = re.search(r"<pre>(\{.*\})</pre>", done.stdout)
    assert match is not None, done.stderr[-2000:]
    found = json.loads(html.unescape(match[1]))
    assert len(pages) > 30
    assert found["wide"] == []
    assert {word: page for word, page in LOOKED_FOR.items() if page not in found["results"][word][:5]} == {}
