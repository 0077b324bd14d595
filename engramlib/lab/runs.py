"""The recorded runs under the name that every page and notebook knows: `python -m engramlib.lab.runs list`.

The module itself is `engramlib.lab.records.runs`. This door stays because the name is promised: it is printed in the
book, in `data/runs/README.md`, and in notebooks that readers have saved.
"""

import sys

from engramlib.lab.records import runs

if __name__ == "__main__":
    raise SystemExit(runs.main())
sys.modules[__name__] = runs
