"""The failure batch's data contract, asserted by Great Expectations: rows are quarantined, batches fail.

What a rule needs to know of a row (does it decode, what does the pinned version answer) is computed first
(`facts.gather`), one boolean column for each rule; Great Expectations then decides over these columns and over one row
of batch figures. Image bytes never enter its frames.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from repairops.config import ImagesConfig, ValidationConfig
from repairops.data.records import FailureBatch, FieldRows, ImageSet, InputSpec
from repairops.errors import ValidationEngineFailed
from repairops.validation.facts import ROW_RULES, FindCopies, Predict, RowFacts, gather
from repairops.validation.limits import BatchLimit, batch_limits

if TYPE_CHECKING:
    import pandas as pd

_UNUSED_IN_DOCS = ("glossary_scroller.gif", "validation_failed_unexpected_values.gif")  # 3.4 MB, on no page
_KEPT_RESULTS = ("element_count", "unexpected_count", "unexpected_percent", "unexpected_index_list")


@dataclass(frozen=True, eq=False)
class ValidationReport:
    """What validation found.

    accepted: the sound rows as the network takes them, in the order of logging; None where none is left.
    field: of a sample of the traffic the sound rows that the pinned version has right, which are not in `accepted`, and
        which of those in it are of the sample; None where no row was logged as such.
    quarantine: the logged rows that break a rule, all their columns, with `rule` (the first that they break, in the
        order of `ROW_RULES`), `rules` (all, comma-separated) and `detail`; the index is the row's place in the input.
    counts: quarantined rows by first broken rule, every row rule named; they add up to the quarantine.
    broken: one sentence for each batch rule that fails, with fact, value and limit.
    results: Great Expectations' result of each rule, plain JSON.
    rows: logged rows.
    """

    accepted: FailureBatch | None
    quarantine: pd.DataFrame
    counts: dict[str, int]
    broken: tuple[str, ...]
    results: dict[str, dict[str, Any]]
    rows: int
    field: FieldRows | None = None


def validate(
    rows: pd.DataFrame,
    spec: InputSpec,
    predict: Predict,
    *,
    clean_ids: Collection[str],
    train_ids: Collection[str],
    validation_ids: Collection[str] = (),
    find_copies: FindCopies | None = None,
    kept: Collection[str] | None = None,
    images: ImagesConfig,
    config: ValidationConfig,
    digests: tuple[str, ...] = (),
    docs_dir: Path | None = None,
) -> ValidationReport:
    """Quarantines rows that cannot be used and says whether the batch passes. Bad data never raises.

    rows: logged rows with the columns sample_id, image (encoded bytes), label (class name or index as text; a name
        wins), predicted, confidence, captured_at (ISO 8601), source, group, batch; missing values are '', NaN, None.
        Perhaps with `field`, whether they are of a sample of the traffic.
    predict: the pinned version, uint8 (N, C, H, W) to labels int64 (N,) and confidence float32 (N,).
    clean_ids, train_ids, validation_ids: `images.sample_ids` of the sets, decoded for the same `spec`.
    find_copies: for uint8 (N, C, H, W) by a set's name which images, bool (N,), are near copies of one of that set.
    kept: ids of the failures that are not stale; None: of those that the pinned version gets wrong.
    digests: of the logged batches, kept in the accepted batch.
    docs_dir: where Great Expectations' Data Docs go; None writes none.

    Raises ValidationEngineFailed where Great Expectations could not evaluate a rule.
    """
    rows = rows.reset_index(drop=True)
    known = {"in_clean_set": clean_ids, "in_validation_set": validation_ids, "in_train_set": train_ids}
    facts = gather(rows, spec, predict, known, images, find_copies=find_copies, kept=kept)
    context = _context(docs_dir)
    results = _assert_rows(context, facts.holds)
    breaks = _breaks(results, len(rows))
    sound = np.asarray(~breaks.any(axis=1))
    right = np.asarray(facts.field & (facts.predicted == facts.labels))
    accepted = _accepted(facts, np.flatnonzero(sound & ~right), spec, digests)
    limits = batch_limits(facts, breaks, accepted, config)
    results |= _assert_batch(context, limits)
    if docs_dir is not None:
        _write_docs(context, docs_dir)
    quarantine = _quarantine(rows, breaks, facts)
    first = quarantine["rule"].value_counts()
    return ValidationReport(
        accepted,
        quarantine,
        {rule: int(first.get(rule, 0)) for rule in ROW_RULES},
        tuple(limit.sentence for limit in limits if not results[limit.rule]["success"]),
        results,
        len(rows),
        _field_rows(facts, sound, right, spec) if facts.field.any() else None,
    )


def still_sound(
    rows: pd.DataFrame,
    spec: InputSpec,
    predict: Predict,
    *,
    clean_ids: Collection[str],
    train_ids: Collection[str],
    validation_ids: Collection[str],
    find_copies: FindCopies,
    kept: Collection[str],
    images: ImagesConfig,
) -> FailureBatch | None:
    """Failures that earlier repairs took (`kept`, by id) and that break no rule for rows; arguments as `validate`.

    Their batches have passed before, so none of it is reported; None where no failure is left.
    """
    known = {"in_clean_set": clean_ids, "in_validation_set": validation_ids, "in_train_set": train_ids}
    facts = gather(rows.reset_index(drop=True), spec, predict, known, images, find_copies=find_copies, kept=kept)
    return _accepted(facts, np.flatnonzero(facts.holds.all(axis=1)), spec, ())


def _field_rows(facts: RowFacts, sound: np.ndarray, right: np.ndarray, spec: InputSpec) -> FieldRows:
    index = np.flatnonzero(sound & right)
    pixels = facts.pixels[torch.from_numpy(facts.position[index])]
    images = ImageSet(pixels, facts.labels[index], spec.class_names, facts.ids[index], "field rows")
    return FieldRows(images, facts.groups[index], frozenset(facts.ids[sound & facts.field & ~right].tolist()))


def _accepted(facts: RowFacts, index: np.ndarray, spec: InputSpec, digests: tuple[str, ...]) -> FailureBatch | None:
    if len(index) == 0:
        return None
    pixels = facts.pixels[torch.from_numpy(facts.position[index])]
    source = "failure batch " + ", ".join(digest[:12] for digest in digests)
    return FailureBatch(
        ImageSet(pixels, facts.labels[index], spec.class_names, facts.ids[index], source.strip()),
        facts.predicted[index],
        facts.confidence[index],
        facts.groups[index],
        facts.sources[index],
        digests,
    )


def _quarantine(rows: pd.DataFrame, breaks: np.ndarray, facts: RowFacts) -> pd.DataFrame:
    rules = list(ROW_RULES)
    index = np.flatnonzero(breaks.any(axis=1))
    first = [rules[breaks[row].argmax()] for row in index]
    return rows.iloc[index].assign(
        rule=first,
        rules=[", ".join(rule for rule, broken in zip(rules, breaks[row], strict=True) if broken) for row in index],
        detail=[facts.details.get((int(row), rule), ROW_RULES[rule]) for row, rule in zip(index, first, strict=True)],
    )


# Great Expectations


def _context(docs_dir: Path | None) -> Any:
    """A context that lives in memory, prints no progress and reports no usage."""
    gx = _great_expectations()
    from great_expectations.data_context.types import base

    sites = {}
    if docs_dir is not None:
        store = {"class_name": "TupleFilesystemStoreBackend", "base_directory": str(docs_dir.resolve())}
        index = {"class_name": "DefaultSiteIndexBuilder"}
        sites = {"validation": {"class_name": "SiteBuilder", "store_backend": store, "site_index_builder": index}}
    config = base.DataContextConfig(
        store_backend_defaults=base.InMemoryStoreBackendDefaults(init_temp_docs_sites=False),
        data_docs_sites=sites,
        analytics_enabled=False,
        progress_bars=base.ProgressBarsConfig(globally=False),
    )
    return gx.get_context(project_config=config, mode="ephemeral")


def _great_expectations() -> Any:
    """The package (its first import takes 5 s), without its habit to send all the process's warnings to logging."""
    shown = warnings.showwarning
    import great_expectations

    if warnings.showwarning is not shown:
        logging.captureWarnings(False)
    return great_expectations


def _assert_rows(context: Any, holds: pd.DataFrame) -> dict[str, dict[str, Any]]:
    from great_expectations import expectations

    return _run(
        context,
        "failure rows",
        holds,
        [
            expectations.ExpectColumnValuesToBeInSet(
                column=rule, value_set=[True], meta={"rule": rule, "notes": f"Broken: {sentence}."}
            )
            for rule, sentence in ROW_RULES.items()
        ],
    )


def _assert_batch(context: Any, limits: Sequence[BatchLimit]) -> dict[str, dict[str, Any]]:
    import pandas as pd
    from great_expectations import expectations

    frame = pd.DataFrame({limit.rule: [float(limit.value)] for limit in limits})
    wanted = [
        expectations.ExpectColumnValuesToBeBetween(
            column=limit.rule, min_value=limit.least, max_value=limit.most, meta={"rule": limit.rule}
        )
        for limit in limits
    ]
    results = _run(context, "failure batch", frame, wanted)
    return {limit.rule: results[limit.rule] | {"value": float(limit.value)} for limit in limits}


def _run(context: Any, name: str, frame: pd.DataFrame, expectations: Sequence[Any]) -> dict[str, dict[str, Any]]:
    """Results by rule. Great Expectations reports a rule that raised as a failed one, so that is told apart here."""
    import great_expectations as gx

    suite = context.suites.add(gx.ExpectationSuite(name=name, expectations=list(expectations)))
    asset = context.data_sources.add_pandas(name).add_dataframe_asset("frame")
    data = asset.add_batch_definition_whole_dataframe("whole")
    definition = context.validation_definitions.add(gx.ValidationDefinition(name=name, data=data, suite=suite))
    outcome = definition.run(batch_parameters={"dataframe": frame}, result_format="COMPLETE")
    results = {}
    for item in (result.to_json_dict() for result in outcome.results):
        rule = item["expectation_config"]["meta"]["rule"]
        if "element_count" not in item["result"] or item["result"]["element_count"] != len(frame):
            raise ValidationEngineFailed(rule, _exception_message(item["exception_info"]))
        kept = {key: item["result"][key] for key in _KEPT_RESULTS}
        limits = {k: v for k, v in item["expectation_config"]["kwargs"].items() if k not in ("batch_id", "column")}
        results[rule] = {
            "expectation": item["expectation_config"]["type"], "success": item["success"], **limits, **kept
        }  # fmt: skip
    missing = [e.meta["rule"] for e in expectations if e.meta["rule"] not in results]
    if missing:
        raise ValidationEngineFailed(missing[0], "it gave no result")
    return results


def _exception_message(info: dict[str, Any]) -> str:
    """GX nests one entry for each metric that raised."""
    messages = [entry.get("exception_message") for entry in (info, *info.values()) if isinstance(entry, dict)]
    return next((str(message) for message in messages if message), "its result is empty")


def _breaks(results: dict[str, dict[str, Any]], rows: int) -> np.ndarray:
    """bool (rows, rules), from the row numbers that Great Expectations lists."""
    breaks = np.zeros((rows, len(ROW_RULES)), dtype=bool)
    for column, rule in enumerate(ROW_RULES):
        breaks[results[rule]["unexpected_index_list"], column] = True
    return breaks


def _write_docs(context: Any, docs_dir: Path) -> None:
    context.build_data_docs()
    for name in _UNUSED_IN_DOCS:
        (docs_dir / "static" / "images" / name).unlink(missing_ok=True)
