"""A team's policy: one YAML file, kept in its own repository, that says all there is to say of the gate."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from repairops.config.options import read_yaml
from repairops.errors import UsageError, listing

_OF_THE_FILE = ("policy", "policy_sha256")


def with_policy(gate: Mapping[str, Any]) -> dict[str, Any]:
    """The gate's options from the policy file that they name; nothing else may be said of the gate beside it.

    The file holds options of the gate by their names, without `gate.` before them. Its digest, sha256 of the bytes,
    becomes `policy_sha256`. Unknown names and wrong values are refused later, as all options are.

    Raises UsageError for options beside the file, for a file that cannot be read or is not the one that
    `policy_sha256` names, and for a policy that names a policy.
    """
    path = Path(str(gate["policy"]))
    beside = [f"gate.{name}" for name in gate if name not in _OF_THE_FILE]
    if beside:
        raise UsageError(
            f"The policy {path} decides on the gate, and {listing(beside)} is set beside it. Change the policy file, "
            "or go without --policy."
        )
    values = read_yaml(path)
    if inside := [name for name in values if name in _OF_THE_FILE]:
        raise UsageError(f"The policy {path} holds {listing(inside)}; it must hold options of the gate alone.")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    wanted = str(gate.get("policy_sha256") or digest)
    if wanted != digest:
        raise UsageError(
            f"The policy {path} has the sha256 {digest[:16]}, not {wanted[:16]} as gate.policy_sha256 says. Take the "
            "file that was agreed on, or correct the digest."
        )
    return {**values, "policy": str(path), "policy_sha256": digest}
