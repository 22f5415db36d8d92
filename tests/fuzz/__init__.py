"""Programs that nobody wrote, run on both engines: drawn from a seed, compared, and made smaller where they differ."""
