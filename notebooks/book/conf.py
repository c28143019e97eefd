"""Sphinx's settings for the book: ``make book`` writes it to ``dist/book``.

The pages are the project's own files, in the order of ``_toc.yml``, so links between
them work as they do in the project. Chapters have their stored outputs: nothing is
executed. Nothing comes from the network, neither here nor in a reader's browser.
"""

from __future__ import annotations

import sys
from pathlib import Path

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx

FOLDER = Path(__file__).resolve().parent
sys.path.append(str(FOLDER))  # generated.py

project = "labserver"
extensions = ["myst_nb", "sphinx_external_toc", "generated"]
external_toc_path = str(FOLDER / "_toc.yml")
external_toc_exclude_missing = True
exclude_patterns = [".*", "build", "dist", "results", "workshop", "**/node_modules"]
smartquotes = False  # --flags are no dashes
highlight_language = "text"  # of a block that names no language

nb_execution_mode = "off"
nb_render_markdown_format = "myst"  # outputs have tables
myst_enable_extensions = ["html_image"]  # the README's <img> are files of the book
myst_heading_anchors = 3

html_theme = "furo"
html_title = project
html_theme_options = {"top_of_page_buttons": []}
html_static_path = ["book.css"]
html_css_files = ["book.css"]
html_copy_source = False
html_show_copyright = False


def unlink_folders(app: Sphinx, doctree: nodes.document) -> None:
    """Leave only the text of a link to a folder, for which the book has no page."""
    page = Path(app.env.doc2path(app.env.docname))
    for link in list(doctree.findall(pending_xref)):
        target = link["reftarget"]
        if "/" in target and (page.parent / target).is_dir():
            link.replace_self(link.children)


def setup(app: Sphinx) -> None:
    app.connect("doctree-read", unlink_folders)
