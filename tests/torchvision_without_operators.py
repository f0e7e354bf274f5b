"""PyPI's torchvision beside a torch for the CPU: ``pytest -p tests.torchvision_without_operators``.

Its compiled operators are for CUDA's torch and do not load, and the file that describes them to torch fails without
them. No image processor uses one, so the tests do without that file.
"""

import sys
from types import ModuleType

sys.modules["torchvision._meta_registrations"] = ModuleType("torchvision._meta_registrations")
