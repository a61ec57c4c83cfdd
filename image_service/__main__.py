"""``python -m image_service``."""

import gc
import sys

# What imports make stays: to look at all of it again and again for what may go is a sixth of a start. run() sets what
# holds from then on.
gc.set_threshold(50_000, 20, 20)

from image_service.main import run  # noqa: E402  see above

sys.exit(run())
