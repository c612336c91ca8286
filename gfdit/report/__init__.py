"""Pictures and pages of a run, live or simulated, made from its timeline. Draws what the runtime recorded."""

from gfdit.report.figures import gantt_png
from gfdit.report.journal import report_of_journal
from gfdit.report.page import write_report

__all__ = ["gantt_png", "report_of_journal", "write_report"]
