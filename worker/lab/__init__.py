"""The laboratory: how good and how fast, measured. Nothing imports it."""
