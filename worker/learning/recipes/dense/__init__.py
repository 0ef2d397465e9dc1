"""Dense recipes: networks trained on class maps that score any labels, after papers on zero-shot segmentation.

    network(pixels, labels) -> DenseOutput   `networks`: (B, 3, H, W) and label vectors (T, D) -> logits (B, T, h, w)
    loss(output, truth)     -> named terms   `lseg`, `sazs`, `zegclip_loss`: truth (B, H, W), rows of labels or VOID
    DenseTrainer.step       -> the same      `training`: one step; a training that is resumed ends with the same weights
    StagedTraining          two of these      `stages`: from corrections, then with generated features (`pasting`)
    DenseAdapter            a served head    `adapter`: what was trained, and per-pixel features of any image
    DenseRecipe             fit and load     `recipe`, `zegclip_recipe`: put these together, once per paper

`networks.DenseNetwork.encode` knows no labels, so that a new label costs one product with features that are there. The
background is a class of its own, the last row of the label vectors. It must not depend on the gate or the quick recipe.
"""
