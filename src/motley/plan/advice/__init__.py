"""What to train: size, tokens and batch from published laws; what a named model is trained with."""
