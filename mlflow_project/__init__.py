"""What MLproject runs: thin entry points that hand the run's parameters to the `repairops` command."""
