"""Cold storage: fiscal partitions on their way to it and back. Nothing stands here yet."""
