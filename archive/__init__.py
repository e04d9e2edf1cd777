"""Cold storage: fiscal partitions on their way to it and back."""
