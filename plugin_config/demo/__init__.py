"""`make demo`: a real Label Studio with masks in it."""
