"""Open_clip models and other backbones: images -> patch features, texts -> embeddings; readouts, tiling, precision.

This package must not know about labels, masks, tasks or Label Studio.
"""
