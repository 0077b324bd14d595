"""Sphinx extension of this book's site: its address, links to the glossary, how to cite."""

from __future__ import annotations

import re
from html import escape
from pathlib import Path
from urllib.parse import urlsplit

import yaml
from docutils import nodes
from docutils.parsers.rst import Directive, directives
from sphinx.errors import ExtensionError

GLOSSARY = "book/glossary"
# Places where a link would disturb: headings, links, code, formulas, captions, the tables of a notation page.
NO_LINKS = (nodes.title, nodes.reference, nodes.literal, nodes.literal_block, nodes.math, nodes.math_block,
            nodes.caption, nodes.term, nodes.table, nodes.raw)  # fmt: skip


# --- where the site lives ---------------------------------------------------------------------------------------


def base_path(baseurl: str) -> str:
    """The path under which the site is served, with slashes at both ends: '/' or '/name/'."""
    return "/" + (urlsplit(baseurl).path.strip("/") + "/").lstrip("/")


def site_address(app, config):
    """Social cards and the 404 page need absolute addresses; the site's own stands in html.baseurl and nowhere else."""
    if not config.ogp_site_url:
        config.ogp_site_url = config.html_baseurl
    config.notfound_urls_prefix = base_path(config.html_baseurl)


def not_found(app, pagename, templatename, context, doctree):
    """What sphinx-notfound-page leaves relative: where the scripts of the 404 page find the site, at any depth."""
    if pagename == app.config.notfound_pagename:
        context["content_root"] = app.config.notfound_urls_prefix


def plain_bibliography(app, pagename, templatename, context, doctree):
    """Docutils names the bibliography a list and its entries by a role that is no list item: screen readers stumble."""
    if 'class="citation-list"' in context.get("body", ""):
        body = context["body"].replace('<div role="list" class="citation-list">', '<div class="citation-list">')
        context["body"] = body.replace(' role="doc-biblioentry"', "")


# --- glossary: the first use of a term on a page leads to it ------------------------------------------------------


class term_link(nodes.reference):
    """A link to the glossary that carries the definition, for the tooltip of _static/book.js."""


def visit_term_link(self, node):
    self.body.append(
        f'<a class="reference internal engram-term" href="{escape(node["refuri"])}" '
        f'data-definition="{escape(node["definition"])}">'
    )


def depart_term_link(self, node):
    self.body.append("</a>")


def glossary_terms(env) -> dict[str, tuple[str, str]]:
    """Term to (anchor, definition as text with TeX in \\( \\))."""
    terms = {}
    for item in env.get_doctree(GLOSSARY).findall(nodes.definition_list_item):
        names = [node for node in item.children if isinstance(node, nodes.term)]
        definition = next(node for node in item.children if isinstance(node, nodes.definition))
        for name in names:
            terms[name.astext()] = (name["ids"][0], _plain(definition))
    return terms


def _plain(node) -> str:
    if isinstance(node, nodes.math):
        return rf"\({node.astext()}\)"
    if isinstance(node, nodes.Text):
        return " ".join(f"|{node.astext()}|".split())[1:-1]
    return "".join(_plain(child) for child in node.children)


def term_pattern(terms, skip=()) -> re.Pattern:
    """Finds any term, longest first, also in the plural or with a capital; words of everyday use are left out."""
    names = sorted((name for name in terms if name not in skip), key=len, reverse=True)
    forms = "|".join(re.escape(name).replace(r"\ ", r"\s+") for name in names)
    return re.compile(rf"(?<![\w-])({forms})s?(?![\w-])", re.IGNORECASE)


def link_terms(doctree, terms, pattern, address) -> int:
    """Turn the first use of each term in the text of a page into a link to the glossary; how many."""
    by_form = {" ".join(name.lower().split()): name for name in terms}
    seen: set[str] = set()
    for paragraph in list(doctree.findall(nodes.paragraph)):
        if _inside(paragraph, NO_LINKS):
            continue
        for text in list(paragraph.findall(nodes.Text)):
            if _inside(text, NO_LINKS):
                continue
            pieces, end = [], 0
            for match in pattern.finditer(text):
                name = by_form[" ".join(match[1].lower().split())]
                if name in seen:
                    continue
                seen.add(name)
                anchor, definition = terms[name]
                link = term_link("", nodes.Text(match[0]), refuri=f"{address}#{anchor}", internal=True)
                link["definition"] = definition
                pieces += [nodes.Text(text[end : match.start()]), link]
                end = match.end()
            if pieces:
                text.parent.replace(text, [*pieces, nodes.Text(text[end:])])
    return len(seen)


def _inside(node, kinds) -> bool:
    while node is not None:
        if isinstance(node, kinds):
            return True
        node = node.parent
    return False


def terms_on_page(app, doctree, docname):
    if docname == GLOSSARY or GLOSSARY not in app.env.found_docs or app.builder.format != "html":
        return
    if not re.match(app.config.engram_terms_on, docname):
        return
    if not hasattr(app, "engram_terms"):
        terms = glossary_terms(app.env)
        unknown = sorted(set(app.config.engram_terms_skip) - set(terms))
        if unknown:
            raise ExtensionError(f"engram_terms_skip in _config.yml names what is not in the glossary: {unknown}")
        app.engram_terms = terms, term_pattern(terms, app.config.engram_terms_skip)
    terms, pattern = app.engram_terms
    link_terms(doctree, terms, pattern, app.builder.get_relative_uri(docname, GLOSSARY))


CHAPTERS = re.compile(r"(?<=hapter )\d\d(?!\d)|(?<=hapters )\d\d(?!\d)")


def chapters_in_glossary(app, doctree, docname):
    """'Chapter 08' in the glossary and in the notation leads there."""
    if docname not in (GLOSSARY, "book/notation") or app.builder.format != "html":
        return
    written = {m[1]: doc for doc in app.env.found_docs if (m := re.match(r"book/part\d/(\d\d)_", doc))}
    for text in list(doctree.findall(nodes.Text)):
        if _inside(text, (nodes.reference, nodes.literal, nodes.math)):
            continue
        pieces, end = [], 0
        for match in CHAPTERS.finditer(text):
            if match[0] in written:
                target = app.builder.get_relative_uri(docname, written[match[0]])
                link = nodes.reference("", "", nodes.Text(match[0]), refuri=target, internal=True)
                pieces += [nodes.Text(text[end : match.start()]), link]
                end = match.end()
        if pieces:
            text.parent.replace(text, [*pieces, nodes.Text(text[end:])])


# --- how to cite --------------------------------------------------------------------------------------------------


def bibtex(cff: dict, year: str) -> list[str]:
    """BibTeX entries of a CITATION.cff: the work itself, then what it asks to cite beside it."""

    def people(authors):
        one = [a["name"] if "name" in a else f"{a['family-names']}, {a['given-names']}" for a in authors]
        return " and ".join(f"{{{name}}}" if "," not in name else name for name in one)

    def entry(kind, key, fields):
        width = max(map(len, fields))
        return f"@{kind}{{{key},\n" + ",\n".join(f"  {k:<{width}} = {{{v}}}" for k, v in fields.items() if v) + "\n}"

    own = {
        "author": people(cff["authors"]), "title": f"{{{cff['title']}}}", "year": year,
        "version": cff.get("version"), "url": cff.get("url"),
    }  # fmt: skip
    entries = [entry("misc", f"engrambook{year}", own)]
    for work in cff.get("references", []):
        names = [i["value"] for i in work.get("identifiers", [])]
        arxiv = next((value.removeprefix("arXiv:") for value in names if value.startswith("arXiv:")), None)
        fields = {
            "author": people(work["authors"]), "title": f"{{{work['title']}}}", "year": work["year"],
            "note": work.get("notes"), "eprint": arxiv, "archiveprefix": "arXiv" if arxiv else None,
        }  # fmt: skip
        entries.append(entry("misc", f"{work['authors'][0]['family-names'].lower()}{work['year']}", fields))
    return entries


class CitationBibtex(Directive):
    """`citation-bibtex`: the BibTeX entries of the CITATION.cff that is named."""

    required_arguments = 1
    option_spec = {"entry": directives.nonnegative_int}

    def run(self):
        env = self.state.document.settings.env
        name, path = env.relfn2path(self.arguments[0])
        env.note_dependency(name)
        entries = bibtex(yaml.safe_load(Path(path).read_text()), str(env.config.copyright)[:4])
        text = entries[self.options["entry"]] if "entry" in self.options else "\n\n".join(entries)
        return [nodes.literal_block(text, text, language="bibtex")]


def setup(app):
    app.add_config_value("engram_terms_skip", [], "env", list)
    app.add_config_value("engram_terms_on", "book/", "env", str)
    app.add_node(term_link, html=(visit_term_link, depart_term_link))
    app.add_directive("citation-bibtex", CitationBibtex)
    app.connect("config-inited", site_address)
    app.connect("html-page-context", not_found)
    app.connect("html-page-context", plain_bibliography)
    app.connect("doctree-resolved", terms_on_page)
    app.connect("doctree-resolved", chapters_in_glossary)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
