"""Whether what was learned may replace what is served."""
