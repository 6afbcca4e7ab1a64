"""Figures and tables in one style, for reports, profiles and the training's dashboard."""
