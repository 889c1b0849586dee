"""Replayed steps are the eager steps, or they are not replayed."""
