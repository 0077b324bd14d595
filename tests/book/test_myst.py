"""How far the pages are from Jupyter Book 2: the list of what MyST does not know gets shorter, not longer."""

from collections import Counter

import myst

# What was there when Jupyter Book 2 was last tried, and how often. Lower a number when one is replaced.
LEFT = {
    ("directive", "eval-rst"): 12,  # the API page, from docstrings
    ("directive", "raw html"): 10,  # the hero, the figures of How fast it is
    ("directive", "scoreboard"): 3,  # ours, book/_ext/engram_pages.py
    ("directive", "explorable"): 6,  # ours, book/_ext/engram_touch.py
    ("directive", "exercises"): 2,  # ours
    ("directive", "citation-bibtex"): 2,  # ours, book/_ext/engram_site.py
    ("directive", "nb-exec-table"): 1,  # MyST-NB's
    ("directive", "button-link"): 1,  # sphinx-design's
    ("directive", "button-ref"): 1,
}


def test_nothing_new_stands_between_the_book_and_the_next_one():
    found = Counter()
    for path in myst.toc_files():
        found += myst.used(myst.markdown(path))
    more = {what: count for what, count in found.items() if not myst.known(*what) and count > LEFT.get(what, 0)}
    assert not more, f"mystmd does not know {more}: see .github/MAINTAINING.md"


def test_directives_and_roles_are_found_where_they_stand():
    text = """
:::{prf:theorem} A name
```{raw} html
<b>
```
:::
   ````{list-table}
   ````
Text {cite:t}`kwon2026` and {term}`code`, a formula $\\frac{a}{b}`$, `{ref}` as code, ```{not} at the start.
```python
x = {}
```
"""
    assert myst.used(text) == {
        ("directive", "prf:theorem"): 1, ("directive", "raw html"): 1, ("directive", "list-table"): 1,
        ("role", "cite:t"): 1, ("role", "term"): 1,
    }  # fmt: skip
    assert myst.known("directive", "prf:theorem") and myst.known("role", "cite:t")
    assert not myst.known("directive", "raw html") and not myst.known("role", "numref-of-ours")


def test_the_command_counts_and_names_the_pages(capsys):
    assert myst.main() == 0
    said = capsys.readouterr().out
    assert "12 × directive eval-rst  (book/api.md)" in said and "directives or roles to replace" in said
