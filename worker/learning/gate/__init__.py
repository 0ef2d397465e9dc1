"""Whether a candidate may replace the adapter that is served.

`decision` trains and decides. `splits` says which corrections are held out and which image evaluates which training
set, `evaluator` computes confusions, `candidates` lists the objections to each candidate, `comparison` has the paired
bootstrap, `swaps` finds swapped labels. It must not depend on any recipe.
"""
