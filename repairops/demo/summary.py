"""What the demo prints at its end."""

from __future__ import annotations

from repairops.demo.story import DemoResult


def summary(result: DemoResult) -> str:
    """Before and after, the verdict, the version, where the report is, and how to go on."""
    record = result.outcome.record
    evidence, registered = record.evidence, record.registered
    if evidence is None or record.verdict is None or record.policy is None:
        return f"The repair came to no verdict: {record.message}"
    clean, total, repaired = evidence.clean, evidence.heldout_total, evidence.heldout_repaired
    before, after = clean.champion_right / clean.n, clean.challenger_right / clean.n
    version = (
        f"version {registered.version} of {registered.name}, alias {registered.alias}"
        if registered
        else "nothing was registered"
    )
    margin = record.policy.margin_points
    served = result.tracking_uri.startswith("http")
    browse = result.tracking_uri if served else f"mlflow ui --backend-store-uri {result.tracking_uri}"
    lines = [
        "",
        f"{'':<28}{'before':>12}{'after':>12}",
        f"{'held-out failures right':<28}{f'0 / {total}':>12}{f'{repaired} / {total}':>12}",
        f"{'clean accuracy':<28}{before:>12.1%}{after:>12.1%}   ({clean.n} images, margin {margin:g} points)",
        "",
        f"verdict   {record.verdict.result}",
        f"version   {version}",
        f"report    {result.report}",
        f"browse    {browse}",
        f"time      {result.seconds:.0f} s",
    ]
    if registered:
        lines += [
            "",
            "To go on, in a shell with the demo's settings (the demo's commands are in the environment's bin folder):",
            *(f"    export {name}={value}" for name, value in result.environment.items()),
            f"    {result.command}    # does nothing: the job is done",
            "    repairops promote prod/cls --by you --reason 'read the report'",
            "    repairops rollback prod/cls",
        ]
    return "\n".join(lines)
