"""`make demo`: a real Label Studio with masks in it. Nothing else may depend on it."""
