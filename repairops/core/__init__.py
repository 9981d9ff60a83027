"""The repair core: clusters, styles, methods, training. Runs without MLflow, and is given plain values."""
