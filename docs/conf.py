"""Sphinx: Markdown pages whose cells run while they are built.

Every page has a kernel of its own, in a temporary folder, so nothing is written into the tree. The kernels find the
`tinygpt` command of the environment that runs Sphinx, and `pages.py` for the tables that pages share.

Formulas are TeX between dollar signs and become MathML, without a script or a CDN: mathml.py says what it accepts.
"""

import atexit
import logging
import os
import shutil
import sys
import tempfile
from pathlib import Path

import tinygpt

DOCS = Path(__file__).parent

project = "tinygpt"
author = "the tinygpt authors"
project_copyright = f"{author}. Apache-2.0"
version = release = tinygpt.__version__

sys.path.insert(0, str(DOCS))  # for mathml.py
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode", "mathml"]
exclude_patterns = ["_build", "_generated", "jupyter_execute", "data", "figures", "**.ipynb_checkpoints"]
source_suffix = {".md": "myst-nb", ".ipynb": "myst-nb"}

# Cells run at every build of a page; a failing cell fails the build.
nb_execution_mode = "force"
nb_execution_in_temp = True
nb_execution_raise_on_error = True
nb_execution_show_tb = True
nb_execution_timeout = 120
nb_merge_streams = True
nb_render_markdown_format = "myst"
nb_code_prompt_show = "Show the {type}"
nb_code_prompt_hide = "Hide the {type}"
myst_enable_extensions = ["attrs_block", "colon_fence", "deflist", "dollarmath", "fieldlist"]
myst_heading_anchors = 3

myst_dmath_allow_space = False  # "a $5 book and 10 $" is text
myst_dmath_allow_digits = False
html_math_renderer = "mathml"

autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the docstrings give types with their shapes
autodoc_preserve_defaults = True
napoleon_google_docstring = False
napoleon_use_param = False  # types are prose here: "int array, shape (B, T)" must not become links
napoleon_use_ivar = True  # attributes as a list; those with a docstring of their own are entries anyway
napoleon_use_rtype = False
default_role = "py:obj"

html_theme = "furo"
pygments_dark_style = "github-dark"
html_title = f"tinygpt {version}"
html_static_path = ["_static"]
html_css_files = ["tinygpt.css"]
templates_path: list[str] = []

# Folders that get a section of the contents as soon as they have a page.
SECTIONS = {"tutorials": "Tutorials", "notebooks": "Notebooks"}
# Tutorials in the order in which they build on each other; pages that are not listed follow in alphabetical order.
READING_ORDER = ["ladder-of-models", "one-page", "autograd", "backpropagation", "attention", "training-dynamics",
                 "tokenization", "sampling", "gpt2-to-llama", "low-precision", "your-repository"]  # fmt: skip


def prepare_kernels() -> None:
    """Set the environment that the kernels of the pages inherit."""
    folder = tempfile.mkdtemp(prefix="tinygpt-docs-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    startup = Path(folder, "profile_default", "startup")
    startup.mkdir(parents=True)
    shutil.copy(DOCS / "cell_startup.py", startup)
    # Kernels are reached by this process alone, so their warning about the network would only hide others.
    Path(folder, "profile_default", "ipython_kernel_config.py").write_text("c.IPKernelApp.log_level = 40\n")
    logging.getLogger("traitlets").setLevel(logging.WARNING)
    os.environ.update(
        IPYTHONDIR=folder,
        PATH=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
        PYTHONPATH=os.pathsep.join(filter(None, [str(DOCS), os.environ.get("PYTHONPATH")])),
        PYTHONDONTWRITEBYTECODE="1",
        COLUMNS="88",
        NO_COLOR="1",
    )
    # Threads sleep while they wait, so that other work on the same machine can use the processor.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")


def reading_order(docname: str) -> tuple[int, str]:
    """Return the sort key of a page within its section; a tutorial of several pages has the name of its folder."""
    name = docname.removesuffix("/index").rpartition("/")[2]
    return (READING_ORDER.index(name) if name in READING_ORDER else len(READING_ORDER), name)


def add_sections(app, docname: str, source: list[str]) -> None:
    """Put the folders of SECTIONS at the end of the contents; of a folder inside them, its index."""
    if docname != app.config.root_doc:
        return
    for folder, caption in SECTIONS.items():
        found = (name for name in app.env.found_docs if name.startswith(f"{folder}/"))
        pages = sorted((name for name in found if name.count("/") == 1 or name.endswith("/index")), key=reading_order)
        if pages:
            source[0] += "\n".join(["", "```{toctree}", ":hidden:", f":caption: {caption}", "", *pages, "```", ""])


def read_contents_again(app, env, added: set[str], changed: set[str], removed: set[str]) -> list[str]:
    """Rebuild every page when one is added or removed, because a section may appear or disappear."""
    return [app.config.root_doc] if added or removed else []


def tidy_module(app, what: str, name: str, obj, options, lines: list[str]) -> None:
    """Make reStructuredText of a module's docstring: a literal block of what is indented, a list under *Design*."""
    if what != "module":
        return
    found: list[str] = []
    for line in lines:
        opens = line.strip() and not (found and found[-1].strip())  # the first line after a blank one
        outside = next((one for one in reversed(found) if one.strip()), "x")[0] not in " -"
        if line == "Design":
            line = ".. rubric:: Design"
        elif line.startswith("- ") and found[-1].strip() and not found[-1].startswith((" ", "-")):
            found.append("")
        elif opens and line.startswith(" ") and outside:
            found += ["::", ""]
        found.append(line)
    lines[:] = found


def setup(app) -> None:
    """Register the hooks of this configuration with Sphinx."""
    prepare_kernels()
    app.connect("env-get-outdated", read_contents_again)
    app.connect("source-read", add_sections)
    app.connect("autodoc-process-docstring", tidy_module)
