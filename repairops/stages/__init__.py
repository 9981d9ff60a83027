"""The stages of `pipeline.run_job`: each calls the pure core, notes its figures in the job, and logs its artifacts."""
