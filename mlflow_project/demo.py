"""Entry point `demo`: `repairops demo`."""

import sys

from mlflow_project.arguments import call, options, parse

if __name__ == "__main__":
    values = parse(sys.argv[1:], ("folder", "seed"))
    call("demo", *options(values, "folder", "seed"))
