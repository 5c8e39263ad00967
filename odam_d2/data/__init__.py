"""Reading images, registering datasets, augmenting them for training."""
