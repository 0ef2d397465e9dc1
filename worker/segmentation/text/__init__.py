"""Label words -> text embeddings: prompt templates, words for the background, a cache in memory and one on disk.

It must not depend on images or masks.
"""
