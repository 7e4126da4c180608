"""How the documentation is built: ``sphinx-build -W docs build/docs``, with scorefusion[test,docs] installed."""

from __future__ import annotations

import inspect
import re
import shutil
from pathlib import Path
from textwrap import dedent
from typing import Any

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml

import scorefusion as sf

HERE = Path(__file__).parent

project = "scorefusion"
author = "the scorefusion authors"
project_copyright = "2026, the scorefusion authors"
version = release = sf.__version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
default_role = "py:obj"  # `combine` in a docstring
html_theme = "furo"
html_title = f"scorefusion {version}"
html_static_path = ["_static"]
html_css_files = ["scorefusion.css"]
html_copy_source = False
html_math_renderer = "mathml"  # no script, no network
html_theme_options = {"top_of_page_buttons": []}  # no link to the source of a page

myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # notebooks are kept as they ran, and the tests run them

autodoc_member_order = "bysource"
autodoc_typehints = "none"  # docstrings say what they are, and the shapes of arrays
autodoc_preserve_defaults = True
napoleon_use_rtype = False
napoleon_custom_sections = [("Fields", "params_style")]

_SHAPE = r"\((?:\w+|steps \+ 1)(?:, [\w*]+)*,?\)(?=[ ,:;]|$)"  # (B, *event)
_MADE_FOR_YOU = ("Fit", "TimeWeights", "Step", "Fused", "CompiledStep")  # not by calling the class
_SECTIONS = ("Args:", "Returns:", "Raises:", "Example:", "Fields:")


def copy_notebooks(app: Any) -> None:
    """Into the source: Sphinx reads no files but those below it."""
    shutil.rmtree(HERE / "notebooks", ignore_errors=True)
    shutil.copytree(HERE.parent / "notebooks", HERE / "notebooks", ignore=shutil.ignore_patterns(".*"))


def fields_of(cls: type) -> list[str]:
    """The fields of a dataclass or NamedTuple and the comments beside them, as napoleon reads them."""
    if not (hasattr(cls, "__dataclass_fields__") or hasattr(cls, "_fields")):
        return []
    found = re.findall(r"^    (\w+): [^#\n]*(?:# (.*))?$", dedent(inspect.getsource(cls)), flags=re.MULTILINE)
    described = [(name, re.sub(_SHAPE, r"``\g<0>``", comment)) for name, comment in found]
    return ["Fields:", *(f"    {name}: {comment}" for name, comment in described)] if found else []


def as_restructured_text(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str], *_: Any) -> None:
    """Formulas stand indented by themselves in docstrings, and hold | and * that are not markup."""
    if what == "class" and inspect.isclass(obj):
        described = fields_of(obj)
        if described:
            lines += ["", *described]
    out: list[str] = []
    section, block = False, False  # in a section of napoleon's; in an indented block
    for i, line in enumerate(lines):
        indented = line.startswith("    ")
        if line and not indented:
            section, block = line.strip() in _SECTIONS, False
        if indented and not section and not block and not lines[i - 1].strip():
            before = next((text for text in reversed(lines[:i]) if text.strip()), "")
            block = True
            if not before.endswith("::"):
                out += [".. code-block:: text", "    :class: formula", ""]
        out.append(line if block and indented else _escaped(line))
    lines[:] = out


def undo_type(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Napoleon takes "The certificate: what is …" of a property for a type and what it is."""
    types = [i for i, line in enumerate(lines) if line.startswith(":type: ")]
    if what in ("attribute", "property") and types:
        lines[0] = f"{lines.pop(types[0]).removeprefix(':type: ')}: {lines[0]}"


def _escaped(line: str) -> str:
    """| as a character, but in ``code``."""
    if line.lstrip().startswith((">>>", "...")):
        return line
    parts = line.split("``")
    return "``".join(part.replace("|", r"\|") if i % 2 == 0 else part for i, part in enumerate(parts))


def skip(app: Any, what: str, name: str, obj: Any, skipped: bool, options: Any) -> bool | None:
    """The fields of NamedTuples, which `fields_of` describes."""
    return True if isinstance(getattr(obj, "__doc__", None), str) and "Alias for field" in obj.__doc__ else None


def mathml(node: Any, as_block: bool) -> str:
    """By docutils, which sizes fences itself and knows no \\Big."""
    text: str = tex2mathml(re.sub(r"\\[Bb]ig+[lr]?(?![a-z])", "", node.astext()), as_block=as_block)
    return text


def signature(app: Any, what: str, name: str, obj: Any, *_: Any) -> tuple[str, str] | None:
    """None for what functions return: its fields are described."""
    returned = what == "class" and (name.rpartition(".")[2] in _MADE_FOR_YOU or bool(fields_of(obj)))
    return ("", "") if returned else None


def inline_math(writer: Any, node: Any) -> None:
    writer.body.append(mathml(node, as_block=False))
    raise nodes.SkipNode


def display_math(writer: Any, node: Any) -> None:
    writer.body.append(f'<div class="math">{mathml(node, as_block=True)}</div>')
    raise nodes.SkipNode


def setup(app: Any) -> None:
    app.add_html_math_renderer("mathml", (inline_math, None), (display_math, None))
    app.connect("builder-inited", copy_notebooks)
    app.connect("autodoc-process-docstring", as_restructured_text, priority=100)  # before napoleon
    app.connect("autodoc-process-docstring", undo_type, priority=900)  # after it
    app.connect("autodoc-process-signature", signature)
    app.connect("autodoc-skip-member", skip)
