"""Patch logits + image -> pixel classes along the outlines of the image.

It must not depend on labels, texts or encoders.
"""
