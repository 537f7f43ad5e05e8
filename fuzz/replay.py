"""`python -m fuzz.replay TARGET FILE …`: inputs once more, without atheris, with a whole traceback."""

import sys
from pathlib import Path

from fuzz.targets import TARGETS

if __name__ == "__main__":
    target = TARGETS[sys.argv[1]]
    for file in sys.argv[2:]:
        target(Path(file).read_bytes())
        print(f"{file}: holds")
