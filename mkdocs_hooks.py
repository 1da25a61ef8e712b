"""Hooks of `mkdocs build`: adapt pages that come from the root of the repository."""

PAGES = {"../CONTRIBUTING.md": "contributing.md", "../CHANGELOG.md": "changelog.md"}
"""Files outside `docs/`, and the pages of the site that include them."""


def on_page_markdown(markdown: str, **_: object) -> str:
    """Point links to included files at the pages that include them."""
    for file, page in PAGES.items():
        markdown = markdown.replace(f"]({file}", f"]({page}")
    return markdown
