"""The benchmark behind `make bench`: the bridge beside what one would use instead. See README.md."""
