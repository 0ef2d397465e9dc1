"""Clicks and boxes on an image -> one mask.

It must not depend on texts, label names or region formats.
"""
