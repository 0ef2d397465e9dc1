"""Proposals of an image, each a mask and a vector: from a decoder trained on seen labels, or from the engine alone."""
