"""Sphinx extension of the book: notebooks to download, buttons that launch them, lighter pages.

Every page with cells gets its student edition as a notebook, ``_notebooks/PAGE.ipynb``, and a
button for it. Binder and Colab need a public repository. Set ``mtlbook_repository`` in
``_config.yml`` to ``https://github.com/OWNER/NAME``, and pages offer Binder, which makes the
notebooks itself (``.binder/postBuild``); set ``mtlbook_published`` to the branch that holds the
built book, and they offer Colab, which opens only notebooks that are in a repository. Without these
settings there are no such buttons.

MathJax comes without its menu, icons from the font that the theme loads anyway, and what no page
asks for does not stay in the built book.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from docutils import nodes

from mtlbook.ledger.files import write_atomically

sys.path.insert(0, str(Path(__file__).parent))
import editions

NOTEBOOKS = "_notebooks"
#: What MathJax loads: TeX in, HTML out, MathML for screen readers; no menu, its largest part.
MATHJAX = ("core", "input/tex", "output/chtml", "a11y/assistive-mml")
KEPT = re.compile(
    r"(startup|core|input/tex|output/chtml|output/chtml/fonts/tex|a11y/assistive-mml)\.js"
    r"|input/tex/extensions/.*|output/chtml/fonts/woff-v2/.*"
)


def launchers(page: str, *, repository: str, published: str) -> list[tuple[str, str]]:
    """Names and addresses of the services that open a page's notebook.

    Parameters
    ----------
    page : str
        Without suffix, for example ``"foundations/tensors"``.
    repository : str
        ``https://github.com/OWNER/NAME``; empty: there is none, and no service.
    published : str
        The branch with the built book, for Colab; empty: none.
    """
    if not repository:
        return []
    found = re.fullmatch(r"https://github\.com/([\w.-]+)/([\w.-]+?)(?:\.git)?/?", repository)
    if found is None:
        raise ValueError(
            f"mtlbook_repository: expected https://github.com/OWNER/NAME, got {repository!r}"
        )
    of = f"{found[1]}/{found[2]}"
    services = [
        ("Binder", f"https://mybinder.org/v2/gh/{of}/HEAD?urlpath=lab/tree/pages/{page}.ipynb")
    ]
    if published:
        path = f"{of}/blob/{published}/{NOTEBOOKS}/{page}.ipynb"
        services.append(("Colab", f"https://colab.research.google.com/github/{path}"))
    return services


def add_notebook(app, page, template, context, doctree) -> None:
    """Write a chapter's notebook, and put the buttons for it into the page's header."""
    if doctree is None or "kernelspec" not in app.env.metadata.get(page, {}):
        return
    text = Path(app.env.doc2path(page)).read_text(encoding="utf-8")
    path = Path(app.outdir, NOTEBOOKS, f"{page}.ipynb")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, editions.notebook(editions.edition(text, solved=False)))
    name = f"{Path(page).name}.ipynb"
    links = [
        {
            "type": "link",
            "url": f"{context['pathto'](NOTEBOOKS, 1)}/{page}.ipynb",
            "text": ".ipynb",
            "tooltip": f"Download this page as a notebook, {name}",
            "icon": "fas fa-download",
            "label": "download-notebook-button",
        }
    ]
    settings = app.config.mtlbook_repository, app.config.mtlbook_published
    for service, url in launchers(page, repository=settings[0], published=settings[1]):
        links.append(
            {
                "type": "link",
                "url": url,
                "text": service,
                "tooltip": f"Open this page's notebook on {service}",
                "icon": "fas fa-rocket",
                "label": f"launch-{service.lower()}-button",
            }
        )
    context["header_buttons"][:0] = links


def keep_together(app, doctree, page) -> None:
    """A percentage is not divided by the end of a line."""
    for text in doctree.findall(nodes.Text):
        if " %" in text and not isinstance(text.parent, nodes.literal | nodes.FixedTextElement):
            text.parent.replace(text, nodes.Text(re.sub(r"(?<=\d) %", "\N{NO-BREAK SPACE}%", text)))


def name_pieces(app, page, template, context, doctree) -> None:
    """What an SVG says of its pieces (`mtlbook.narrow`), at each place that shows it."""
    files = {name: Path(app.srcdir, source) for source, name in app.builder.images.items()}

    def noted(image: re.Match) -> str:
        root = files[image[1]].read_text(encoding="utf-8")[:9999] if image[1] in files else ""
        found = re.search(r'data-letters="[^"]*" data-pieces="[^"]*"', root)
        return f"<img {found[0]}{image[0][4:]}" if found else image[0]

    if "body" in context:  # an index has none
        shown = r'<img[^>]*\ssrc="[^"]*/([^"/]+\.svg)"'
        context["body"] = re.sub(shown, noted, context["body"])


def configure(app, config) -> None:
    """MathJax in parts; scripts of explorables only where a cell asks for them."""
    config.mathjax_path = "mathjax/startup.js"
    config.mathjax3_config = {**(config.mathjax3_config or {}), "loader": {"load": list(MATHJAX)}}
    config.html_js_files = [
        file for file in config.html_js_files if not str(file).startswith("explorables/")
    ]


def lighten(app, exception) -> None:
    """Leave out of the built book what no page loads."""
    if exception is not None:
        return
    static = Path(app.outdir, "_static")
    icons = static / "scripts" / "fontawesome.js"
    if icons.is_file():  # 1.5 MB that draw what the style sheet draws with the font
        write_atomically(icons, "// icons: from the font\n")
    for path in static.rglob("*"):
        inside = path.relative_to(static).as_posix()
        useless = inside.endswith((".map", ".ttf")) or (
            inside.startswith("mathjax/") and not KEPT.fullmatch(inside.removeprefix("mathjax/"))
        )
        if path.is_file() and useless:
            path.unlink()


def setup(app) -> dict:
    app.add_config_value("mtlbook_repository", "", "html")
    app.add_config_value("mtlbook_published", "", "html")
    app.connect("config-inited", configure, priority=400)  # before Sphinx reads the lists of files
    app.connect("doctree-resolved", keep_together)
    app.connect("html-page-context", name_pieces)
    app.connect("html-page-context", add_notebook, priority=700)  # after the theme's own buttons
    app.connect("build-finished", lighten, priority=900)  # after MathJax has been copied
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
