"""Image + vocabulary -> masks. Usable as a plain library, without Redis or Label Studio."""
