"""The bench: what the chapters need that is not the method itself.

Data sets, models, training, figures, the paper's published numbers, recorded runs, exercises.
The method (`engramlib`) never imports this package.
"""
