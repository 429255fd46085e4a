"""``frspec-eval``: every way to generate on every prompt, side by side, as a table and as a picture."""
