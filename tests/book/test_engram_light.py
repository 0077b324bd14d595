"""Pages carry what they use: MathJax with formulas only, a drawing for each icon, explorables' scripts where one is."""

import json
import sys
from types import SimpleNamespace

import pytest
from bs4 import BeautifulSoup
from notebooks import ROOT

sys.path.insert(0, str(ROOT / "book" / "_ext"))

import engram_light as light  # noqa: E402
import engram_touch as touch  # noqa: E402

# In the order of the theme's script: brands, regular, solid.
THEME = (
    '{github:[496,512,[],"f09b","M1 1z"]};{sun:[512,512,[9728],"f185","M2 2z"],"face-sun":[1,1,[],"e1","M9 9z"]};'
    '{sun:[512,512,[9728],"f185","M3 3z"],pencil:[512,512,[9999,61504,"pencil-alt"],"f303","M4 4z"],'
    '"arrow-up":[384,512,[8593],"f062","M5 5z"],"cloud-arrow-up":[640,512,["cloud-upload"],"f0ee","M6 6z"]}'
)


@pytest.mark.parametrize(
    ("icon", "path", "kept"),
    [
        ('<i class="fab fa-github"></i>', "M1 1z", "fa-github"),
        (
            '<i class="theme-switch fa-solid fa-sun   fa-lg" data-mode="light" title="Light"></i>',
            "M3 3z",
            "theme-switch",
        ),
        ('<i class="far fa-sun"></i>', "M2 2z", "fa-sun"),
        ('<i class="fas fa-pencil-alt"></i>', "M4 4z", "fa-pencil-alt"),
        ('<span class="fa-solid fa-arrow-up"></span>', "M5 5z", "fa-arrow-up"),
    ],
)
def test_an_icon_becomes_the_drawing_that_the_theme_would_have_made(icon, path, kept):
    svg = BeautifulSoup(light.lighten(f"<p>{icon}</p>", light.Icons(THEME)), "html.parser").find("svg")
    assert svg.path["d"] == path and kept in svg["class"] and svg["aria-hidden"] == "true"
    if "data-mode" in icon:
        assert svg["data-mode"] == "light" and svg["title"] == "Light" and "fa-lg" in svg["class"]


def test_the_script_goes_and_the_rest_of_the_page_stays():
    page = (
        '<script defer src="../_static/scripts/fontawesome.js?digest=1"></script>\n<script src="a.js"></script>'
        '<i>no icon</i><i class="face">x</i><span class="fabulous fa">x</span>'
    )
    assert light.lighten(page, light.Icons(THEME)) == page.replace(
        '<script defer src="../_static/scripts/fontawesome.js?digest=1"></script>', ""
    )


def test_an_unknown_icon_ends_the_build():
    with pytest.raises(light.ExtensionError, match="no icon 'unicorn'"):
        light.lighten('<i class="fas fa-unicorn"></i>', light.Icons(THEME))


def test_the_themes_own_script_has_the_icons_in_this_form():
    """A new version of the theme may write them otherwise: then this says so before a page looks odd."""
    import pydata_sphinx_theme

    folder = ROOT.__class__(pydata_sphinx_theme.__file__).parent
    script = next(folder.rglob("static/scripts/fontawesome.js"))
    icons = light.Icons(script.read_text(encoding="utf-8"))
    for style, name in [("fas", "sun"), ("fas", "bars"), ("fab", "github"), ("fas", "pencil-alt"), ("fas", "download")]:
        width, height, path = icons.drawing(style, name)
        assert int(width) > 0 and int(height) == 512 and path.startswith("M")


MATH = SimpleNamespace(filename="_static/mathjax/tex-svg-full.js", attributes={})
CONFIG = SimpleNamespace(filename=None, attributes={"body": "window.MathJax = {}"})
OTHER = SimpleNamespace(filename="_static/book.js", attributes={})


@pytest.mark.parametrize(
    ("body", "needed"),
    [
        ("<p>none</p>", False),
        ('<span class="math notranslate nohighlight">x</span>', True),
        ('<a class="engram-term" data-definition="a share \\(s\\)">x</a>', True),
        ('<a class="engram-term" data-definition="a word">x</a>', False),
        ("<p>mathematics, window.MathJax</p>", False),
    ],
)
def test_mathjax_where_there_is_a_formula(body, needed):
    context = {"body": body, "script_files": [CONFIG, MATH, OTHER]}
    light.math_where_needed(None, "p", "t", context, None)
    assert context["script_files"] == ([CONFIG, MATH, OTHER] if needed else [OTHER])


class App:
    def __init__(self):
        self.css, self.js = [], []

    def add_css_file(self, name):
        self.css.append(name)

    def add_js_file(self, name, loading_method):
        assert loading_method == "defer"
        self.js.append(name.split("/")[-1])


def test_explorables_load_their_scripts_and_nothing_twice():
    one, two, none = App(), App(), App()
    touch.add_scripts(one, "p", "t", {"body": '<figure data-explorable="digits">'}, None)
    assert one.js == ["engine.js", "page.js", "digits-data.js", "touch-digits.js"]
    touch.add_scripts(two, "p", "t", {"body": '<b data-explorable="cut"></b><b data-explorable="clouds"></b>'}, None)
    assert two.js == ["engine.js", "page.js", "more-data.js", "touch-cut.js", "touch-clouds.js"]
    touch.add_scripts(none, "p", "t", {"body": "<p>digits</p>"}, None)
    assert not none.js and not none.css
    for name in {*one.js, *two.js}:
        assert (ROOT / touch.FOLDER / name).is_file()


def test_every_explorable_has_a_still_a_caption_and_a_place():
    files = (ROOT / touch.FOLDER / "facts.json", ROOT / touch.STILLS / "answers.json")
    facts = {key: value for path in files for key, value in json.loads(path.read_text(encoding="utf-8")).items()}
    told = touch.captions(ROOT / touch.STILLS, facts)
    page = (ROOT / "book" / "things-to-touch.md").read_text(encoding="utf-8")
    for name in touch.SCRIPTS:
        assert "{" not in told[name] and len(told[name]) > 100
        assert (ROOT / touch.STILLS / f"{name}.html").is_file()
        assert f"```{{explorable}} {name}\n" in page
