"""Entry point `promote`: `repairops promote`."""

import sys

from mlflow_project.arguments import call, options, parse

if __name__ == "__main__":
    values = parse(sys.argv[1:], ("model", "version", "by", "reason"))
    call("promote", values["model"], *options(values, "version", "by", "reason"))
