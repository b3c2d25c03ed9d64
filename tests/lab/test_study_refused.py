"""What no study can be made of is told before anything is written or measured."""

import pytest

from thalweg import ThalwegError
from thalweg.lab.claims import CLAIMS
from thalweg.lab.study import choose, study


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"claims": None}, "^claims must be a Claim or a list of them, got None: choose"),
        ({"claims": ["drift"]}, "^claims must be a Claim or a list of them, got 'drift': choose"),
        ({"folder": None}, "^folder must be a path or a ResultsFolder, got None: name one"),
        ({"folder": 3}, "^folder must be a path or a ResultsFolder, got 3"),
        ({"size": "large"}, "^size must be one of quick, standard, full, got 'large'$"),
        ({"size": ["quick"]}, r"^size must be one of .*, got \['quick'\]$"),
        ({"fresh": "no"}, "^fresh must be True or False, got 'no'$"),
        ({"jobs": 0}, "^jobs must be a whole number >= 1, got 0$"),
        ({"jobs": None}, "^jobs must be a whole number >= 1, got None$"),
    ],
)
def test_what_cannot_be_studied(changes, told, tmp_path):
    with pytest.raises(ThalwegError, match=told):
        next(study(**{"claims": CLAIMS[:1], "folder": tmp_path / "results", **changes}))
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("names", ["drift", None, 3])
def test_names_are_a_list(names):
    with pytest.raises(ThalwegError, match=r"^names must be a list of names, got .*: write \[name"):
        choose(names)
