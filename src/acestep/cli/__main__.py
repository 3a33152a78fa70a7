"""`python -m acestep.cli`: what launchers of several processes start (docs/several-gpus.md)."""

from acestep.cli.app import main

main()
