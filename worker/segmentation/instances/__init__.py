"""Pixel classes -> segments: things one by one, scored and tidied."""
