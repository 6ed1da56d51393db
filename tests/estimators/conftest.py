"""ppi_py, the reference, compiles its loops for longer than they take; set before numba is loaded."""

import os

os.environ.setdefault("NUMBA_DISABLE_JIT", "1")
