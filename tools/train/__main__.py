"""`python -m frspec_cpp.tools.train`, the same as frspec-train."""

import sys

from .cli import main

sys.exit(main())
