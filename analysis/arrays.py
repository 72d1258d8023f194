"""Types of the arrays that all rooms pass around."""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
