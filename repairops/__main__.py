"""`python -m repairops`."""

from repairops.cli import main

if __name__ == "__main__":
    main(prog_name="repairops")
