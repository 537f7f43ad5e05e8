"""`python -m smtp2cf`."""

from smtp2cf.cli.app import main

main()
