"""Small models for the chapters, one file a family."""

from engramlib.lab.models.mlp import mlp

__all__ = ["mlp"]
