"""Where images come from. A sample is an image, its label where known, and an id that nothing else in the set has."""
