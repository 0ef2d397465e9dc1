"""Corrections as training data: class maps, hold-out."""
