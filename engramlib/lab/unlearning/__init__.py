"""Ways to make a model forget, one room a kind of model: `vision` (classes of images), `text` (answers).

Shared by both: the interface (`method`, `base`), the choice of settings with equal budgets (`tuning`), the count of
what a method reads (`passes`), and edits that must not do what an engram does (`controls`).
"""
