"""Studies that a chapter runs small and a recorded run runs large: one code path for both."""
