"""What the method costs, as ratios measured in one run: ``make bench``. The page of the book: *How fast it is*."""
