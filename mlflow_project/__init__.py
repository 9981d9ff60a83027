"""What MLproject runs: its entry points, which hand a run's parameters to the `repairops` command."""
