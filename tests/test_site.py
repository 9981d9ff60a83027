"""The store on PostgreSQL and S3, without a server between: one life of a model, races, stores that fail."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow import MlflowClient
from site_helpers import (
    Site,
    object_store_fixture,  # noqa: F401
    postgres_fixture,  # noqa: F401
    run_sql,
    site_fixture,  # noqa: F401
)
from store_helpers import add_version, digits, judged_version
from test_promotion_rights import check_promotion_race
from test_server import check_a_models_life
from test_store_registry import check_leftovers, check_races

import repairops
from repairops.errors import ArtifactsRefused, ArtifactsUnreachable, PromotionRefused, RegistryUnreachable
from repairops.promotion.history import promotions
from repairops.store.batches import list_failures, log_failures
from repairops.store.connection import connect
from repairops.store.models import version_at

pytestmark = pytest.mark.filterwarnings("ignore")  # MLflow's hints on pickle and signatures


@pytest.fixture
def client(site: Site) -> MlflowClient:
    return connect()


@pytest.mark.slow
def test_a_models_life(client: MlflowClient, tmp_path: Path) -> None:
    check_a_models_life(client, tmp_path)


@pytest.mark.long
def test_leftovers_of_an_interrupted_upload_are_removed_and_a_rival_s_upload_stays(
    client: MlflowClient, tmp_path: Path
) -> None:
    check_leftovers(client, tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_same_job_on_two_machines_at_once_registers_one_version(
    client: MlflowClient, tmp_path: Path, site: Site
) -> None:
    check_races(site.uri, client, tmp_path, rounds=20)


def test_of_two_promotions_at_once_one_wins(client: MlflowClient, site: Site) -> None:
    add_version(client, "cls", "prod")
    check_promotion_race(client, site.uri, "cls", rounds=1)


# Stores that fail


def the_bucket_is_gone(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    import boto3

    bucket = boto3.resource("s3", endpoint_url=site.settings["MLFLOW_S3_ENDPOINT_URL"]).Bucket(site.bucket)
    bucket.objects.all().delete()
    bucket.delete()


def nobody_listens(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", "http://127.0.0.1:9")


def nothing_to_sign_with(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")


@pytest.mark.parametrize(
    ("fail", "kind", "says", "not_promoted"),
    [
        (the_bucket_is_gone, ArtifactsUnreachable, "NoSuchBucket", PromotionRefused),  # nor is there what was judged
        (nobody_listens, ArtifactsUnreachable, "Could not connect", ArtifactsUnreachable),
        (nothing_to_sign_with, ArtifactsRefused, "AWS_ACCESS_KEY_ID", ArtifactsRefused),
    ],
)
def test_an_artifact_store_that_fails_is_one_error_and_leaves_no_batch(
    client: MlflowClient,
    site: Site,
    monkeypatch: pytest.MonkeyPatch,
    fail: Callable[[Site, pytest.MonkeyPatch], None],
    kind: type[Exception],
    says: str,
    not_promoted: type[Exception],
) -> None:
    from boto3 import setup_default_session
    from mlflow.store.artifact.s3_artifact_repo import _cached_get_s3_client

    add_version(client, "cls", "prod")
    judged_version(client, "cls", "1", "challenger")
    with monkeypatch.context() as changed:
        _cached_get_s3_client.cache_clear()  # as a process that starts anew
        setup_default_session()
        fail(site, changed)
        with pytest.raises(kind, match=says):
            log_failures("prod/cls", digits(2), [0, 1])
        with pytest.raises(not_promoted):
            repairops.promote("prod/cls")
    _cached_get_s3_client.cache_clear()
    setup_default_session()
    assert list_failures("cls") == []
    assert promotions(client, "cls") == []
    assert version_at(client, "cls", "prod") == "1"


def test_a_database_that_is_gone_is_one_error(client: MlflowClient, site: Site, postgres: Path) -> None:
    add_version(client, "cls", "prod")
    run_sql(postgres, f'DROP DATABASE "{site.bucket}" WITH (FORCE)')
    for call in (lambda: log_failures("prod/cls", digits(2), [0, 1]), lambda: repairops.promote("prod/cls")):
        with pytest.raises(RegistryUnreachable, match="does not exist"):
            call()
