"""Entry point `log_failures`: `repairops failures log`."""

import sys

from mlflow_project.arguments import call, options, parse

if __name__ == "__main__":
    values = parse(sys.argv[1:], ("model", "path", "csv", "source"))
    call("failures", "log", values["model"], values["path"], *options(values, "csv", "source"))
