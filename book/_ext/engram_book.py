"""Sphinx extension of this book: nothing on a built page is loaded from elsewhere."""

from html import escape

from docutils import nodes

BADGE = "https://colab.research.google.com/assets/colab-badge.svg"


def local_badge(app, doctree, docname):
    """Chapters carry Colab's own badge, for GitHub and Jupyter; the site shows a picture of ours instead.

    As raw HTML it also stays out of the page's description.
    """
    source = "../" * docname.count("/") + "_static/colab-badge.svg"
    for image in list(doctree.findall(nodes.image)):
        link = image.parent
        if image["uri"] != BADGE or not isinstance(link, nodes.reference):
            continue
        html = (
            f'<a class="colab-badge" href="{escape(link["refuri"])}">'
            f'<img src="{source}" alt="{escape(image.get("alt", ""))}"></a>'
        )
        link.replace_self(nodes.raw("", html, format="html"))


def without_thebe(app, pagename, templatename, context, doctree):
    """Jupyter Book adds Thebe's script to every page, twice, though the book has no live kernels."""
    context["script_files"] = [
        script
        for script in context.get("script_files", [])
        if "thebe" not in f"{getattr(script, 'filename', script)} {getattr(script, 'attributes', {})}".lower()
    ]


def setup(app):
    app.connect("doctree-resolved", local_badge)
    app.connect("html-page-context", without_thebe, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
