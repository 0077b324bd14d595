"""The landing page's pictures show the recorded run, not an older one."""

import make_hero
import pytest
from PIL import Image


@pytest.mark.parametrize(
    ("path", "layout"), [(make_hero.HERO, make_hero.WIDE), (make_hero.NARROW, make_hero.SMALL)], ids=["wide", "narrow"]
)
def test_hero_is_drawn_from_the_recorded_run(path, layout):
    assert path.read_text() == make_hero.hero(layout), "run `python book/make_hero.py`"


def test_the_picture_for_links_is_made_from_the_hero():
    with Image.open(make_hero.SOCIAL) as card:
        assert card.size == make_hero.SOCIAL_SIZE == (1200, 630)
        assert card.text["picture"] == make_hero.fingerprint(make_hero.HERO.read_text()), (
            "run `python book/make_hero.py`"
        )
        assert len(card.convert("RGB").getcolors(2000)) > 20, "a blank card"
    assert make_hero.SOCIAL.stat().st_size < 300_000
