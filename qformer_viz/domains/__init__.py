"""What a model was trained on: its images, its words, and ground truth where the images are rendered."""
