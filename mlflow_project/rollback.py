"""Entry point `rollback`: `repairops rollback`."""

import sys

from mlflow_project.arguments import call, options, parse

if __name__ == "__main__":
    values = parse(sys.argv[1:], ("model", "by", "reason"))
    call("rollback", values["model"], *options(values, "by", "reason"))
