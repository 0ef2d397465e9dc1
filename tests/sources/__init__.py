"""Where images come from x kinds of tokens x ways to reach Label Studio, on a real one: `make sources`."""
