"""The review page, the registered version's description and the terminal summary, all from one record.

Every section of the record (`outcome.Record`) may be missing: a job that stopped early still gives a page that says
why and shows what exists.
"""

from repairops.report.markdown import render_markdown
from repairops.report.page import render_page
from repairops.report.pictures import GuardedImage, JudgedFailure, NegativeFlip, Pictures, SamplePair, SuspectImage
from repairops.report.terminal import render_terminal

__all__ = [
    "GuardedImage",
    "JudgedFailure",
    "NegativeFlip",
    "Pictures",
    "SamplePair",
    "SuspectImage",
    "render_markdown",
    "render_page",
    "render_terminal",
]
