"""Patch logits + image -> pixel classes along the outlines of the image."""
