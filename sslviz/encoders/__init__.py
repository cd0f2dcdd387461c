"""What an encoder is, how one is read safely from a file, and how it is run."""
