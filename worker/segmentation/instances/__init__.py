"""Pixel classes -> segments: things one by one, cleaned, scored, and optionally redrawn by a model of the SAM family.

This package must not know about text, label names or region formats.
"""
