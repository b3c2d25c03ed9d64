"""The warnings of trainers are many and of their time; thalweg's own still fail a test."""

import pytest

OURS_FAIL = [
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.filterwarnings("error:.*(perturb|SAM|rho).*"),
]
