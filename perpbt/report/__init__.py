"""Report: the tables of a result → figures and one self-contained HTML page. Nothing here simulates."""

from perpbt.report.html import write_report

__all__ = ["write_report"]
