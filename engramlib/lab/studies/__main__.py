"""One command line for everything that is recorded.

python -m engramlib.lab.studies                       # the studies
python -m engramlib.lab.studies mlp --help            # the options of one
python -m engramlib.lab.studies mlp --record          # data/runs/mlp-mnist.json; resumes if it was cut off
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

STUDIES = {
    "mlp": "chapter 07",
    "convnet": "chapter 08",
    "cifar": "chapters 08 and 09",
    "thin": "chapters 08 and 09",
    "overlap": "chapter 10",
    "transformer": "chapter 11",
    "thousand": "chapter 11",
    "autoencoder": "chapter 12",
    "judged": "chapter 12",
    "trained": "the language models of chapters 13 and 14",
    "forgetting": "chapters 13 and 14",
    "pretrained": "chapter 15",
    "order": "chapter 16",
    "erasure": "chapter 17",
    "compensated": "chapter 18",
    "online": "chapter 19",
    "discover": "chapter 20",
    "scale": "chapter 21",
}


def main(argv: Sequence[str] | None = None) -> int:
    name, *options = [*(sys.argv[1:] if argv is None else argv), ""]
    if name not in STUDIES:
        print("usage: python -m engramlib.lab.studies NAME [--record] [--help]\n")
        print("\n".join(f"  {study:12} {where}" for study, where in STUDIES.items()))
        return 0 if name in ("", "-h", "--help") else 2
    return importlib.import_module(f"engramlib.lab.studies.{name}").main(options[:-1])


if __name__ == "__main__":
    raise SystemExit(main())
