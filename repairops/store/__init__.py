"""Everything that talks to MLflow: models, failures, datasets, jobs, registry."""
