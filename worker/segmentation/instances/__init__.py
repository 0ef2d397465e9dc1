"""Pixel classes -> segments: things one by one, cleaned, scored, and optionally redrawn by a model of the SAM family.

It must not depend on texts, label names or region formats.
"""
