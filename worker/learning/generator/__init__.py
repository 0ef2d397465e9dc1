"""Vectors of labels that nobody has drawn, generated from their words, after PADing (He et al., CVPR 2023).

    generator(texts (C, T)) -> (C, D)          `primitives`, or the baseline `gmmn`: vectors as the segmenter's
    train_generator(real, seen, unseen, ...)   `training`: real vectors of seen labels -> a generator and a classifier
    TrainedGenerator.with_label(text)          a row of the classifier for a name that was not known in training
    train_projection, without_unseen           `baselines`: classifiers without a generator

Vectors are whatever a segmenter classifies: of proposals, of cells, of pixels. It must not depend on what made them, on
the recipes or on the gate.
"""
