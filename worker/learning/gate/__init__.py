"""Whether a candidate may replace the adapter that is served.

`decision` trains, `verdicts` compares what was trained and decides. `splits` says which corrections are held out and
which image evaluates which training set, `evaluator` computes confusions, `candidates` lists the objections to each
candidate, `evidence` what a comparison proves, `comparison` has the paired bootstrap, `swaps` finds swapped labels. It
must not depend on any recipe.
"""
