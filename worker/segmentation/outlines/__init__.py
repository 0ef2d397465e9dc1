"""Patch logits + image -> pixel classes along the object's outline."""
