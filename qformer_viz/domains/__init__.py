"""What a model was trained on: its pictures, words and known truths."""
