"""The report on a finished run: one self-contained HTML page, a Markdown summary and the last lines of the terminal."""

from edgeship.decide.report.page import render, write_report
from edgeship.decide.report.summary import markdown_summary, write_summary
from edgeship.decide.report.terminal import terminal_summary

__all__ = ["markdown_summary", "render", "terminal_summary", "write_report", "write_summary"]
