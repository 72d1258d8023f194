"""Define the types of arrays that all packages exchange."""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
