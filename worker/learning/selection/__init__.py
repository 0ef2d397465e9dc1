"""Which images to correct next: those that stand for images unlike the corrected ones, then those that are uncertain
and show rare labels, and a share at random that keeps the hold-out unbiased.

`choosing` decides, `coverage` and `representatives` compare images with those corrected, `worth` says what is gained by
correcting them, `vectors` gives an image its vector. It must not depend on recipes, nor on how uncertainty is measured.
"""
