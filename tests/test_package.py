"""What `import engramlib` costs, and what it shows."""

from __future__ import annotations

import subprocess
import sys

import engramlib as el

HEAVY = (
    "torchvision transformers sklearn scipy matplotlib seaborn pandas IPython tqdm safetensors jaxtyping PIL".split()
)


def test_import_pulls_in_torch_and_nothing_heavier() -> None:
    code = "import torch, sys; before = set(sys.modules); import engramlib; print(*(set(sys.modules) - before))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    new = {module.split(".")[0] for module in run.stdout.split()}
    assert "engramlib" in new and not new & set(HEAVY), new


def test_public_names_have_complete_docstrings() -> None:
    for name in set(el.__all__) - {"spectral", "analysis"}:  # modules, with public names of their own
        text = getattr(el, name).__doc__
        assert text and len(text) > 150 and "hapter" in text, name
