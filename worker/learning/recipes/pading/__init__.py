"""PADing (He et al., CVPR 2023): proposals of a query decoder, and a classifier that a generator supplies with vectors
of labels nobody has drawn.

    real_vectors(decoder, samples)        `vectors`: what the decoder proposes in annotated images, and of what label
    label_shares, proposal_numbers        `posterior`: proposals and a classifier to posteriors and to things
    PadingAdapter                         `adapter`: both as a served head; names that come later get rows of their own
    PadingRecipe                          `recipe`: the decoder first, then generator and classifier; fit and load

Masks and scores go through the one assembly: panoptic, instances and semantic are requests to it, not other networks.
It must not depend on the gate or on other recipes.
"""
