"""Evaluation: scores on unseen tasks beside baselines, curves, audit, stress tests, value table, report.

Everything that is chosen here is chosen on val tasks; everything that is reported is a function of the seed.
"""

from kshot.evaluation.audit import Audit, Probe, audit, recommend
from kshot.evaluation.baselines import BASELINES, Baseline
from kshot.evaluation.budget import BUDGETS, Budget
from kshot.evaluation.ceiling import Ceiling, supervised_ceiling
from kshot.evaluation.compare import compare, iter_compare
from kshot.evaluation.comparison import Compared, Comparison
from kshot.evaluation.conventional import Conventional, conventional_network
from kshot.evaluation.curves import Curve, shots_curve, steps_curve
from kshot.evaluation.distribution import Distribution, distribution
from kshot.evaluation.evaluate import Evaluation, evaluate
from kshot.evaluation.instances import by_instance
from kshot.evaluation.report import Report, full_report, write_report
from kshot.evaluation.scaling import Scaling, scale
from kshot.evaluation.scores import Scores, iter_scores, score_tasks
from kshot.evaluation.stress import Stress, stress
from kshot.evaluation.unseen import unseen_split
from kshot.evaluation.value import Value, value

__all__ = [
    "BASELINES",
    "BUDGETS",
    "Audit",
    "Baseline",
    "Budget",
    "Ceiling",
    "Compared",
    "Comparison",
    "Conventional",
    "Curve",
    "Distribution",
    "Evaluation",
    "Probe",
    "Report",
    "Scaling",
    "Scores",
    "Stress",
    "Value",
    "audit",
    "by_instance",
    "compare",
    "conventional_network",
    "distribution",
    "evaluate",
    "full_report",
    "iter_compare",
    "iter_scores",
    "recommend",
    "scale",
    "score_tasks",
    "shots_curve",
    "steps_curve",
    "stress",
    "supervised_ceiling",
    "unseen_split",
    "value",
    "write_report",
]
