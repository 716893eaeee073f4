"""Stands before Petastorm on the path of the interpreters that it and Spark start.

Puts the hook in place and gives way to the real package. A script that knows nothing of the hook
runs too, with this folder in PYTHONPATH.
"""

import importlib
import sys
from pathlib import Path

del sys.modules[__name__]
# The last place, so that nothing installed is shadowed.
sys.path.append(str(Path(__file__).parents[4]))
importlib.import_module("jobs.petastorm_legacy.hook").install()
importlib.import_module(__name__)
