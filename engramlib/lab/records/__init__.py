"""What is written down: recorded `runs`, `published` numbers, and the `scoreboard` that compares the two."""
