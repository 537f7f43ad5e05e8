"""python -m smtp2cf.sendmail."""

import sys

from . import main

sys.exit(main())
