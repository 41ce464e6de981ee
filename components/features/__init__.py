"""Features and the training set."""
