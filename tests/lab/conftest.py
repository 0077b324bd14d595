"""What several tests of the bench share."""

import pytest


@pytest.fixture
def figure_style():
    """The book's figure style for one test; its figures are closed afterwards."""
    import matplotlib
    from matplotlib import pyplot as plt

    from engramlib.lab import plots

    with matplotlib.rc_context():
        plots.style()
        yield
        plt.close("all")
