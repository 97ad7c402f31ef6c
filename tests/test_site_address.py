"""What a built site says of its own address and of its repository: nothing, unless the environment names them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from urllib.parse import urljoin
from xml.etree import ElementTree

import pytest
import yaml

from .browser_kit import built
from .trees import small_tree

pytestmark = pytest.mark.slow

ADDRESS, REPOSITORY = "https://example.org/kb/", "https://example.org/owner/name"
LOC = "{http://www.sitemaps.org/schemas/sitemap/0.9}loc"
LINK = re.compile(r'<link rel="canonical" href="([^"]+)">')
EDIT = re.compile(r'href="([^"]*/edit/[^"]*)"')


@pytest.fixture(scope="module")
def plain(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small site as anybody builds it."""
    folder = tmp_path_factory.mktemp("plain")
    return built(folder / "out", small_tree(root, folder / "tree", "lora", "ia3"))


@pytest.fixture(scope="module")
def published(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same site as it is published."""
    folder = tmp_path_factory.mktemp("published")
    tree = small_tree(root, folder / "tree", "lora", "ia3")
    return built(folder / "out", tree, PEFTONOMY_SITE_URL=ADDRESS, PEFTONOMY_REPOSITORY=f"{REPOSITORY}/")


def html(folder: Path) -> dict[str, str]:
    pages = {p.relative_to(folder).as_posix(): p.read_text(encoding="utf-8") for p in folder.rglob("*.html")}
    assert "methods/lora.html" in pages
    return pages


def test_the_sitemap_lists_every_page_by_its_address(published: Path) -> None:
    sitemap = ElementTree.parse(published / "sitemap.xml").getroot()
    locations = [str(found.text) for found in sitemap.iter(LOC)]
    pages = html(published)
    assert sorted(locations) == sorted(urljoin(ADDRESS, path) for path in pages if path != "404.html")
    assert {found for page in pages.values() for found in LINK.findall(page)} == set(locations)
    assert [tag for tag in sitemap.iter() if tag.tag.endswith("lastmod")] == []     # builds on two days are equal
    assert not (published / "sitemap.xml.gz").exists()


def test_pages_say_what_a_link_to_them_shows(published: Path, plain: Path) -> None:
    """Title, description and a picture that is there; without an address, no picture, for it needs a whole one."""
    for path, page in html(published).items():
        if path == "404.html":
            continue
        tags = dict(re.findall(r'<meta property="og:(\w+)" content="([^"]*)">', page))
        assert tags["title"], path
        assert tags["description"], path
        assert tags["url"] == urljoin(ADDRESS, path)
        assert (published / tags["image"].removeprefix(ADDRESS)).is_file(), path
    page = html(published)["methods/lora.html"]
    (data,) = re.findall(r'<script type="application/ld\+json">(.*?)</script>', page)
    assert json.loads(data)[0]["url"] == f"{ADDRESS}methods/lora.html"
    assert not [path for path, page in html(plain).items() if "og:image" in page or '"./' in page]


def test_without_an_address_there_is_no_sitemap(plain: Path) -> None:
    """A sitemap names absolute addresses only, so that a site which may lie anywhere has none."""
    assert list(plain.rglob("sitemap*")) == []
    assert [path for path, page in html(plain).items() if LINK.search(page)] == []


def test_pages_link_to_the_repository_that_is_named(published: Path) -> None:
    pages = html(published)
    assert EDIT.findall(pages["methods/lora.html"]) == [f"{REPOSITORY}/edit/main/methods/lora.yaml"] * 2
    links = {link for page in pages.values() for link in EDIT.findall(page)}
    assert all(link.startswith(f"{REPOSITORY}/edit/main/") for link in links)


def test_without_a_repository_nothing_links_to_one(plain: Path) -> None:
    files = [p for p in plain.rglob("*") if p.suffix in (".html", ".json", ".js", ".xml", ".md", ".bib")]
    assert len(files) > 50
    for path in files:
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"github\.com/peftonomy|href=\"[^\"]*/edit/main/|Edit this entry", text), path


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("PEFTONOMY_SITE_URL", "mkdocs: Config value 'site_url': The URL isn't valid"),
        (
            "PEFTONOMY_REPOSITORY",
            "repository: found 'javascript:alert(1)'; expected an address such as https://example.org/owner/name",
        ),
    ],
)
def test_what_is_no_address_is_refused(root: Path, tmp_path: Path, name: str, message: str) -> None:
    tree = small_tree(root, tmp_path / "tree", "lora")
    with pytest.raises(AssertionError, match=re.escape(message)):
        built(tmp_path / "out", tree, **{name: "javascript:alert(1)"})


def test_the_workflow_names_what_the_build_reads(root: Path) -> None:
    read = set(re.findall(r"!ENV \[?(\w+)", (root / "mkdocs.yml").read_text(encoding="utf-8")))
    workflow = yaml.safe_load((root / ".github" / "workflows" / "site.yml").read_text(encoding="utf-8"))
    (build,) = [step for step in workflow["jobs"]["build"]["steps"] if "make site" in step.get("run", "")]
    assert read == {"PEFTONOMY_REPOSITORY", "PEFTONOMY_SITE_URL"} == set(build["env"])
    assert build["env"]["PEFTONOMY_REPOSITORY"] == "${{ github.server_url }}/${{ github.repository }}"
