"""The process that learns in the background."""
