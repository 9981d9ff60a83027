"""Augmentations, batched in torch; all random draws are arguments or come from a generator passed in."""
