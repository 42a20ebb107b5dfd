"""Trials: build, audit, benchmark, evaluate one candidate on this machine.

Imports with numpy and pydantic alone; the engine's own library is imported when an engine is opened.
"""
