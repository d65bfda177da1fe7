"""Configuration of the documentation site, which `make docs` builds."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

project = "dwp"
author = "The dwp developers"
project_copyright = author
language = "en_GB"

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode", "_site"]
exclude_patterns = ["*.py", "_static"]

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 4

# Names of other packages have no target, since nothing is downloaded; names of this one must have one, except
# a few that are not public.
nitpicky = True
nitpick_ignore_regex = [
    ("py:.*", r"(?!dwp\.).*"),
    ("py:.*", r"dwp\.(data\.options\.\w+|priors\._(elliptical|whitening)\.\w+)"),
]

default_role = "py:obj"
napoleon_numpy_docstring = False
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_member_order = "bysource"
autodoc_default_options = {"show-inheritance": True}
python_use_unqualified_type_names = True
python_display_short_literal_types = True
add_module_names = False
toc_object_entries_show_parents = "hide"

html_theme = "pydata_sphinx_theme"
html_title = "dwp"
html_math_renderer = "mathml"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_copy_source = False
html_theme_options = {
    "header_links_before_dropdown": 6,
    "navigation_with_keys": False,
    "show_toc_level": 2,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": [],
}
html_sidebars = {"index": [], "tutorial": []}
