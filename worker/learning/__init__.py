"""Corrections -> better predictions: examples, recipes that learn from them, the gate that accepts or rejects.

A library on top of `worker.segmentation`. It must not depend on Label Studio, Redis, HTTP or the service.
"""
