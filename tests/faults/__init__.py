"""`make faults`: break everything that can break around the product, then count what Label Studio holds."""
