"""The scikit-learn face: `FewShotClassifier` and `FewShotRegressor`, over a meta-trained learner or plain features."""

from kshot.estimators.classifier import FewShotClassifier
from kshot.estimators.inputs import learner_input
from kshot.estimators.regressor import FewShotRegressor

__all__ = ["FewShotClassifier", "FewShotRegressor", "learner_input"]
