"""Corrections -> better predictions: examples, recipes that learn from them, the gate that accepts or rejects.

A library on top of `worker.segmentation`: it knows no Label Studio, no Redis, no HTTP and no service.
"""
