"""``python -m image_service``."""

import sys

from image_service.main import run

sys.exit(run())
