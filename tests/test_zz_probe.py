import time
def test_a(registry):
    import mlflow
    with mlflow.start_run() as r: print(r.info.artifact_uri)
    mlflow.set_experiment("x")
def test_b(server_registry, tmp_path):
    import mlflow
    (tmp_path/"f").write_text("x")
    t=time.time()
    with mlflow.start_run() as r: mlflow.log_artifact(str(tmp_path/"f")); print(r.info.artifact_uri)
    print(time.time()-t)
def test_c(registry):
    import mlflow
    assert mlflow.search_runs().empty
    with mlflow.start_run() as r: assert r.info.experiment_id=="0"
