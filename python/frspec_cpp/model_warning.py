"""Warnings of models' files."""


class ModelWarning(UserWarning):
    """A model's file says something wrong that was put right, as llama.cpp does, or left out."""
