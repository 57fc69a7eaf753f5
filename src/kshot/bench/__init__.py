"""`kshot bench`: kshot and its peers on the same work, in the same run.

A workload is work that can be done in several ways, its contenders. They begin with the same numbers and must come to
the same answers (losses, meta-gradients) before they are timed, in turn, round by round; what is reported are
medians and ratios, beside what the machine could do at best.
"""

from kshot.bench.clock import Timing, alternate
from kshot.bench.workload import Contender, Goal, Missing, Workload

__all__ = ["Contender", "Goal", "Missing", "Timing", "Workload", "alternate"]
