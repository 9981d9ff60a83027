"""Errors as they leave a process."""

from __future__ import annotations

import pickle

from repairops.errors import AliasMoved, UnreadableImage


def test_errors_survive_a_process_pool():
    moved = pickle.loads(pickle.dumps(AliasMoved("cls", "prod", "1", "2")))
    assert isinstance(moved, AliasMoved)
    assert moved.exit_code == 5
    assert "at version 1 and is at 2" in str(moved)
    image = pickle.loads(pickle.dumps(UnreadableImage("animated", "it has 3 frames")))
    assert (image.reason, image.detail, str(image)) == ("animated", "it has 3 frames", "it has 3 frames")
