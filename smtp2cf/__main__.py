"""`python -m smtp2cf`."""

from smtp2cf.cli import main

main()
