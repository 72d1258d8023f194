"""The site: built strictly, from every page, and without a request to any network when it is read."""

import re
from pathlib import Path

import pytest

from tests.support.paths import ROOT

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
