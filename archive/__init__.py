"""Cold storage: fiscal years on their way to it, and back."""
