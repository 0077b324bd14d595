"""What a reader meets: the set-up of a chapter, exercises, coursework, and advice when something fails."""
