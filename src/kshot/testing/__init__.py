"""The public conformance suite: what every learner must hold, for kshot's own and for anyone's.

In pytest::

    import kshot

    @kshot.testing.parametrize(lambda: MyLearner(kshot.models.MLP(8)))
    def test_my_learner(check):
        check()

or all at once: `kshot.testing.check_learner(lambda: MyLearner(kshot.models.MLP(8)))`.
"""

from kshot.testing.suite import CHECKS, check_learner, checks, parametrize
from kshot.testing.toys import copy_episodes, gaussian_episodes, kinds_of, sinusoid_episodes, toy_episodes

__all__ = [
    "CHECKS",
    "check_learner",
    "checks",
    "copy_episodes",
    "gaussian_episodes",
    "kinds_of",
    "parametrize",
    "sinusoid_episodes",
    "toy_episodes",
]
