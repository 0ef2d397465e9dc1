"""`make fuzz`: malformed input without end, generated from a seed, against the real parts of the product."""
