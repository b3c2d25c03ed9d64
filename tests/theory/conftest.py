"""The check that every function of the room refuses what is not in its range."""

import math

import numpy as np
import pytest

from thalweg.errors import ThalwegError


@pytest.fixture
def bad_arguments():
    def check(function, good, positive=None):
        """Call ``function`` with each argument spoiled in turn; all are positive unless said."""
        function(**good)
        for name in good:
            zero = [0.0, np.array([0.1, 0.0])] if positive is None or name in positive else []
            spoiled = [-0.1, math.nan, math.inf, "0.1", None, True, [0.1], 1j]
            for value in [*spoiled, np.array([0.1, -0.1]), np.array(["0.1"]), *zero]:
                with pytest.raises(ThalwegError, match=rf"^{name} must be "):
                    function(**{**good, name: value})

    return check
