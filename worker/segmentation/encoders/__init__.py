"""Open_clip models and other backbones: images -> patch features, texts -> embeddings; readouts, tiling, precision.

It must not depend on labels, masks, tasks or Label Studio.
"""
