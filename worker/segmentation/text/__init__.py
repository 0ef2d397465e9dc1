"""Label words -> text embeddings: prompt templates, words for the background, a cache in memory and one on disk.

This package must not know about images, masks or Label Studio.
"""
