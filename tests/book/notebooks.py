"""The book's chapters as data, for the tests beside this file."""

import ast
from pathlib import Path

import build
import nbformat
import pytest
from IPython.core.inputtransformer2 import TransformerManager

ROOT = Path(__file__).resolve().parents[2]
FILES = build.toc_files()
CHAPTERS = [path for path in FILES if path.suffix == ".ipynb"]
every_chapter = pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)


def all_cells(path: Path) -> list:
    return nbformat.read(path, as_version=4).cells


def cells(path: Path, kind: str) -> list:
    return [cell for cell in all_cells(path) if cell.cell_type == kind]


def tags(cell) -> list[str]:
    return cell.metadata.get("tags", [])


def text(path: Path) -> str:
    return "\n\n".join(cell.source for cell in cells(path, "markdown"))


def python(source: str) -> ast.Module:
    """A cell's syntax tree; IPython's magics become calls."""
    return ast.parse(TransformerManager().transform_cell(source))
