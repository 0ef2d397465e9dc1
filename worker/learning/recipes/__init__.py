"""Ways to learn, one file each, with one signature: `fit(examples, words, segmenter) -> Adapter`."""
