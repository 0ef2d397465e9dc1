"""The GPU half: turns tasks and a vocabulary into masks, and learns from corrections.

Imports no web framework, label_studio_ml or `backend`.
"""
