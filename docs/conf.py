"""Sphinx configuration. Neither the build nor the pages need a network."""

from typing import Any

import rmsprop_fast

project = "rmsprop_fast"
author = "the rmsprop_fast developers"
copyright = author
version = release = rmsprop_fast.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "numpydoc",
    "myst_parser",
]
exclude_patterns = ["_build", "examples"]
# `name` in a docstring: a link where it names something documented, else just code.
default_role = "py:obj"
nitpicky = True
nitpick_ignore_regex = [("py:obj", r"[a-z_.]+"), ("py:obj", r"sklearn\..+")]

autodoc_typehints = "none"  # numpydoc's sections say more
autodoc_member_order = "bysource"
autosummary_generate = False  # the pages in api/ are written by hand
toc_object_entries_show_parents = "hide"
numpydoc_show_class_members = False  # autodoc lists them
myst_heading_anchors = 3

html_theme = "pydata_sphinx_theme"
html_title = f"{project} {version}"
html_static_path = ["_static"]
html_css_files = ["mathml.css"]
html_copy_source = False
html_sidebars = {"*": []}  # pages outside api/ have no section to navigate
html_math_renderer = "mathml"
html_theme_options = {
    "navigation_with_keys": False,
    "secondary_sidebar_items": ["page-toc"],
    "show_toc_level": 2,
}


def setup(app: Any) -> None:
    """Write mathematics as MathML: readers' browsers would have to fetch MathJax."""
    from docutils.nodes import SkipNode
    from docutils.utils.math.latex2mathml import tex2mathml

    def renderer(as_block: bool) -> tuple[Any, None]:
        def visit(translator: Any, node: Any) -> None:
            translator.body.append(tex2mathml(node.astext(), as_block=as_block))
            raise SkipNode

        return visit, None

    app.add_html_math_renderer("mathml", renderer(False), renderer(True))
    app.connect("source-read", close_fences)


def close_fences(app: Any, docname: str, source: list[str]) -> None:
    """Drop the empty line that ends a doctest's output: the fence would be output."""
    source[0] = source[0].replace("\n\n```\n", "\n```\n")
