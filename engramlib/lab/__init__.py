"""The bench: what the chapters need that is not the method itself. Rooms in order, each may look into those before it:

`data`, `models`, `training`, `unlearning` (`vision`, `text`), `metrics`, `studies`, `records`, `teaching`; `plots`
stands beside them. The method (`engramlib`) never imports this package.
"""
