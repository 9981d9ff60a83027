"""The repair core: read `repair.py` first. Runs without MLflow, and is given plain values."""
