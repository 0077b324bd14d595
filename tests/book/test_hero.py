"""The landing page's picture shows the recorded run, not an older one."""

import make_hero


def test_hero_is_drawn_from_the_recorded_run():
    assert make_hero.HERO.read_text() == make_hero.hero(), "run `python book/make_hero.py`"
