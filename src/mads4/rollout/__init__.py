"""Playing episodes: one place for training, evaluation and recording."""
