"""The record: what happened to each file, and the proof of it. Imports nothing else of this project."""
